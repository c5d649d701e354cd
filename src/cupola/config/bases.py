"""The folders that bases may be read from, and the files that base names refer to."""

import os
import re
from collections.abc import Sequence
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

from cupola.errors import ConfigError, did_you_mean

_PROJECT_MARKS = ("configs", ".git", "pyproject.toml", "setup.py")
VARIABLE = "CUPOLA_CONFIG_PATH"
# Configs beside a checkout of MMDetection name its bases by a path into it.
PACKAGES = {"mmdetection": "mmdet", "mmdetection3d": "mmdet3d"}
CHECKOUT = re.compile(r"(?:^|/)(mmdetection|mmdetection3d)/configs/(.+)$")
_LEVELS = 6  # how many folders above a config its project may begin


class Roots:
    """The folders that bases may be read from: the file's project and those that the user named.

    The latter come from `more` and from the environment variable CUPOLA_CONFIG_PATH, which holds
    folders separated by colons. Packages (`pkg::path`) are looked up in them before the installed
    ones, so that an unpacked wheel can be used if the package itself cannot be installed.
    """

    def __init__(self, project: Path, more: Sequence[Path] = ()) -> None:
        named = [Path(each) for each in os.environ.get(VARIABLE, "").split(os.pathsep) if each]
        self.searched = tuple(each.resolve() for each in (*more, *named))
        self.folders = [project, *self.searched]  # and the packages that are used

    @classmethod
    def around(cls, path: Path, more: Sequence[Path] = ()) -> "Roots":
        """The project of a config file, plus `more`.

        The project is the outermost of the next folders above the file that looks like one, or
        else the parent of the file's folder.
        """
        parents = list(path.resolve().parents)
        near = parents[: min(_LEVELS, len(parents) - 1)] or parents
        marked = (each for each in reversed(near) if _is_project(str(each)))
        return cls(next(marked, near[min(1, len(near) - 1)]), more)

    def check(self, path: Path, where: str) -> Path:
        """The path without `..`; ConfigError if it, or what it links to, leaves the folders."""
        try:
            real = os.path.realpath(path)
        except ValueError:  # half a surrogate pair
            raise ConfigError(f"{where}: {str(path)!r} is not a path") from None
        if not any(real.startswith(f"{folder}{os.sep}") for folder in self.folders):
            allowed = " or ".join(str(folder) for folder in self.folders)
            raise ConfigError(f"{where}: the base {path} is outside {allowed}")
        return Path(real)

    def base_path(self, file: Path, line: int, name: str) -> tuple[Path, str | None]:
        """The file that `_base_ = name` refers to, and the scope of a `scope::path`."""
        where = f"{file}:{line}"
        if "\0" in name or len(name) > 1000:
            raise ConfigError(f"{where}: {name[:40]!r} is not a path")
        if "::" in name:
            scope, _, inner = name.partition("::")
            return self._package_file(scope, inner, where), scope
        package = CHECKOUT.search(name)
        if package and not _is_file(file.parent / name):
            return self._package_file(PACKAGES[package[1]], package[2], where), None
        found = self.check(file.parent / name, where)
        if not _is_file(found):
            siblings = (each.name for each in islice(found.parent.glob("*"), 2000))
            hint = did_you_mean(found.name, siblings)
            raise ConfigError(f"{where}: the base {name!r} does not exist{hint}")
        return found, None

    def module_path(self, file: Path, level: int, module: str) -> Path:
        """The file that `from ..module import *` refers to in a lazy config."""
        parts = module.split(".")
        if level:
            folder = file.parents[min(level, len(file.parents)) - 1]
            return self.check(folder.joinpath(*parts).with_suffix(".py"), str(file))
        if len(parts) == 1:
            raise ConfigError(f"{file}: {module!r} is a package, and no config in one")
        package = self.package_folder(parts[0], str(file))
        return package.joinpath(*parts[1:]).with_suffix(".py")

    def package_folder(self, package: str, where: str) -> Path:
        """The folder of a package, which is not imported."""
        for root in self.searched:
            if package.isidentifier() and (root / package).is_dir():
                return (root / package).resolve()
        spec = find_spec(package) if package.isidentifier() else None
        if spec is None or not spec.submodule_search_locations:
            raise ConfigError(
                f"{where}: the package {package!r} is not installed. Its wheel will do, unpacked "
                f"in a folder that --config-path or {VARIABLE} names: "
                f"`pip download --no-deps {package}`, then `python -m zipfile -e WHEEL FOLDER`"
            )
        return Path(next(iter(spec.submodule_search_locations))).resolve()

    def _package_file(self, package: str, name: str, where: str) -> Path:
        """`pkg::detr/x.py`: the config x.py that a package ships, as MIM packs them."""
        folder = self.package_folder(package, where)
        for configs in (folder / ".mim" / "configs", folder / "configs"):
            found = (configs / name).resolve()
            if found.is_relative_to(configs) and _is_file(found):
                self.folders.append(configs)
                return found
        raise ConfigError(f"{where}: the package {package!r} has no config {name!r}")


def _is_project(folder: str) -> bool:
    # A Path for each takes longer than the call.
    return any(os.path.exists(f"{folder}{os.sep}{mark}") for mark in _PROJECT_MARKS)  # noqa: PTH110


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that is too long, or half a surrogate pair
        return False
