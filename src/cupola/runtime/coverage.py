"""Which configs build, and which classes the others lack."""

import warnings
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cupola import nn, registry
from cupola.config import Config
from cupola.errors import ConfigError, CupolaError
from cupola.runtime.building import without_pretrained
from cupola.runtime.missing import missing_classes

Status = Literal["unreadable", "no model", "missing", "fails", "builds"]


@dataclass(frozen=True)
class Coverage:
    """What became of one config.

    missing: the class names that no registry has, sorted, without their scope.
    error: why the file is unreadable or the model fails to build.
    """

    path: str
    status: Status
    missing: tuple[str, ...] = ()
    error: str = ""


@dataclass(frozen=True)
class MissingClass:
    """A class that no registry has, how many configs name it, and for how many it is all."""

    name: str
    configs: int
    only: int


def config_files(paths: Iterable[Path]) -> list[Path]:
    """The files themselves, and the Python files in folders; ConfigError if there is none."""
    found: list[Path] = []
    for path in paths:
        if not path.exists():
            raise ConfigError(f"{path}: no such file or folder")
        found += sorted(path.rglob("*.py")) if path.is_dir() else [path]
    if not found:
        raise ConfigError("no config files found: a folder is searched for *.py")
    return found


def cover(path: Path) -> Coverage:
    """Reads a config and builds its model without weights; if that fails, looks its classes up.

    Classes that a model is given but does not use, such as an assigner of FCOS, are not missed.
    """
    try:
        cfg = Config.load(path).to_dict()
    except (CupolaError, OSError) as error:
        return Coverage(str(path), "unreadable", error=str(error))
    model = cfg.get("model")
    if not isinstance(model, Mapping):
        return Coverage(str(path), "no model")
    failure = _failure(cfg)
    if failure is None:
        return Coverage(str(path), "builds")
    scope = cfg.get("default_scope")
    missing = tuple(sorted(missing_classes(model, scope if isinstance(scope, str) else None)))
    if missing:
        return Coverage(str(path), "missing", missing)
    return Coverage(str(path), "fails", error=failure)


def _failure(cfg: Mapping[str, Any]) -> str | None:
    """Why the model of a config does not build; None if it does."""
    try:
        with warnings.catch_warnings(), nn.on_meta():
            warnings.simplefilter("ignore")
            registry.build(without_pretrained(cfg))
    except CupolaError as error:
        return str(error)
    except Exception as error:  # one config that fails must not hide the others
        return f"{type(error).__name__}: {error}"
    return None


def by_class(covered: Iterable[Coverage]) -> list[MissingClass]:
    """The missing classes, those first that most configs lack."""
    lacking = [each.missing for each in covered if each.missing]
    configs = Counter(name for names in lacking for name in names)
    only = Counter(names[0] for names in lacking if len(names) == 1)
    found = [MissingClass(name, count, only[name]) for name, count in configs.items()]
    return sorted(found, key=lambda each: (-each.configs, -each.only, each.name))
