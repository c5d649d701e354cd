"""What a folder holds that something else has filled, such as KServe's storage initializer.

It is a bundle, a checkpoint folder of transformers, a published config with its checkpoint, or
folders with one of these each. Needs no torch.
"""

import hashlib
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from cupola.bundles.bundle import REQUIRED
from cupola.bundles.transformers import is_transformers
from cupola.config import CONFIG_SUFFIXES, Config
from cupola.errors import BundleError, CupolaError
from cupola.files import read_settings
from cupola.files.adapters import is_adapter

logger = logging.getLogger("cupola")
CHECKPOINTS = (".pth", ".pt", ".ckpt", ".bin", ".safetensors", ".tar")
DEPTH = 3  # levels of folders that are looked at, as in models--ORG--NAME/snapshots/COMMIT
MOST_ENTRIES = 10_000
SHOWN = 12  # names in an error
STATISTICS = {"global_means.npy": "means", "global_stds.npy": "stds"}  # beside FourCastNet's
EXPECTED = (
    "expected a bundle, a folder of transformers, a config with its checkpoint, or folders with "
    "one of these each"
)
_SKIPPED = ("lost+found", "__pycache__")  # besides hidden names


@dataclass(frozen=True)
class FoundModel:
    """One model. `name` and `version` are None where the bundle's own are meant.

    With a `config`, a bundle is to be made of it, of `checkpoint` and of the files that
    `statistics` gives for options of `cupola bundle`.
    """

    path: Path
    name: str | None = None
    version: str | None = None
    config: Path | None = None
    checkpoint: Path | None = None
    statistics: Mapping[str, Path] | None = None

    def digest(self) -> str:
        """A name for what a bundle is made of: the config with its bases, and the other files."""
        assert self.config is not None and self.checkpoint is not None
        about: list[object] = [Config.load(self.config).to_dict()]
        for path in (self.checkpoint, *(self.statistics or {}).values()):
            status = path.stat()
            about.append((str(path.resolve()), status.st_size, status.st_mtime_ns))
        return hashlib.sha256(repr(about).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class _Tree:
    """The visible entries of a folder: those that begin with a dot lead to what is seen anyway."""

    path: Path
    files: list[Path]
    folders: "list[_Tree]"

    def all_files(self) -> list[Path]:
        return self.files + [path for folder in self.folders for path in folder.all_files()]


def find_models(folder: Path) -> list[FoundModel]:
    """The models in a folder, in the order of their paths.

    BundleError that lists what was found if there is none, or if it is unclear what belongs
    together.
    """
    if not folder.is_dir():
        raise BundleError(f"{folder}: is not a folder; {EXPECTED}")
    tree = _read_tree(folder, DEPTH, [MOST_ENTRIES], set())
    found = _search(tree)
    if not found and (pair := _pair_of(folder, tree.all_files())):
        found = [pair]
    if not found:
        raise BundleError(f"{folder}: holds no model; {EXPECTED}; {_listing(tree)}")
    return [_named(model, folder) for model in found]


def _read_tree(folder: Path, depth: int, left: list[int], seen: set[Path]) -> _Tree:
    """The entries, sorted; BundleError if there are more than are `left`.

    A folder that links lead to a second time is skipped.
    """
    files, folders = [], []
    try:
        entries = sorted(folder.iterdir(), key=lambda path: (path.is_symlink(), path))
    except OSError as error:
        raise BundleError(f"{folder}: cannot be read ({error.strerror})") from None
    left[0] -= len(entries)
    if left[0] < 0:
        raise BundleError(f"{folder}: more than {MOST_ENTRIES} entries; {EXPECTED}")
    seen.add(folder.resolve())
    for path in entries:
        if path.name.startswith(".") or path.name in _SKIPPED:
            continue
        if not path.is_dir():
            files.append(path)
        elif depth and path.resolve() not in seen:
            folders.append(_read_tree(path, depth - 1, left, seen))
    return _Tree(folder, files, sorted(folders, key=lambda tree: tree.path))


def _search(tree: _Tree) -> list[FoundModel]:
    """The model of a folder, or those of the folders in it."""
    if _is_model(tree.path):
        return [FoundModel(tree.path)]
    own = _pair_of(tree.path, tree.files)
    below = [model for folder in tree.folders for model in _search(folder)]
    if own and below:
        others = _names(model.path for model in below)
        assert own.config and own.checkpoint
        raise BundleError(
            f"{tree.path}: holds a model ({own.config.name}, {own.checkpoint.name}) and folders "
            f"with models ({others}); give it a folder of its own"
        )
    return [own] if own else below


def _is_model(folder: Path) -> bool:
    """Whether the folder is a bundle or one of transformers, complete or not."""
    if is_adapter(folder):
        return True
    path = folder / "config.json"
    if not path.is_file():
        return False
    about = read_settings(path, BundleError)
    if not isinstance(about, Mapping):
        raise BundleError(f"{path}: expected an object, found a {type(about).__name__}")
    found = all(key in about for key in REQUIRED) or is_transformers(about)
    if not found and not _configures_model(about):
        logger.warning("%s: not of a bundle, and not of transformers; skipped", path)
    return found


# ---- a config and its checkpoint


def _pair_of(folder: Path, files: list[Path]) -> FoundModel | None:
    """The config and the checkpoint among the files; BundleError if there are several."""
    checkpoints = _without_links(path for path in files if path.suffix in CHECKPOINTS)
    candidates = _without_links(path for path in files if path.suffix in CONFIG_SUFFIXES)
    if not checkpoints or not candidates:
        return None
    configs, problems = _training_configs(candidates)
    if not configs:
        reasons = "; ".join(problems[:SHOWN]) or f"{_names(candidates)} have no `model`"
        raise BundleError(f"{folder}: no config for {_names(checkpoints)}: {reasons}")
    if len(configs) > 1 or len(checkpoints) > 1:
        raise BundleError(
            f"{folder}: unclear which config and checkpoint to serve; found {_names(configs)} and "
            f"{_names(checkpoints)}; leave one of each, or give each pair a folder of its own"
        )
    beside = [*files, *sorted((folder / "stats").glob("*.npy"))]
    statistics = {STATISTICS[path.name]: path for path in beside if path.name in STATISTICS}
    return FoundModel(folder, config=configs[0], checkpoint=checkpoints[0], statistics=statistics)


def _without_links(paths: Iterable[Path]) -> list[Path]:
    """The files, less links to others of them, such as latest.pth."""
    kept: dict[Path, Path] = {}
    for path in sorted(paths, key=lambda path: (path.is_symlink(), path)):
        kept.setdefault(path.resolve(), path)
    return sorted(kept.values())


def _training_configs(candidates: list[Path]) -> tuple[list[Path], list[str]]:
    """Those that configure a model and are not bases of others; and why some cannot be read."""
    found: list[Path] = []
    bases: set[Path] = set()
    problems: list[str] = []
    for path in candidates:
        try:
            config = Config.load(path)
        except CupolaError as error:
            problems.append(str(error))
            continue
        if not _configures_model(config):
            continue
        found.append(path)
        origins = [origin for _, _, origin in config.leaves() if origin is not None]
        bases |= {Path(origin.file).resolve() for origin in origins} - {path.resolve()}
    return [path for path in found if path.resolve() not in bases], problems


def _configures_model(config: Mapping[str, object]) -> bool:
    """Whether it is a training config, or FourCastNet's YAML with a section for each model."""
    sections = (value for value in config.values() if isinstance(value, Mapping))
    return "model" in config or any("nettype" in section for section in sections)


# ---- names


def _named(model: FoundModel, root: Path) -> FoundModel:
    """With the name and version that its folders state, for a model that has none of its own.

    NAME/3 is version 3 of NAME, and models--ORG--NAME/snapshots/COMMIT is NAME.
    """
    folders = model.path.relative_to(root).parts
    if model.config is None and _has_own_name(model.path):
        return model
    if not folders:
        return replace(model, name=model.config.stem) if model.config else model
    name, version = folders[-1], None
    if name.isdecimal() and len(folders) > 1:
        name, version = folders[-2], name
    elif "snapshots" in folders[:-1] and folders[0].startswith("models--"):
        name = folders[0].rpartition("--")[2]
    return replace(model, name=name, version=version)


def _has_own_name(folder: Path) -> bool:
    """Whether it is a bundle, whose config.json states its name."""
    if is_adapter(folder):
        return False
    about = read_settings(folder / "config.json", BundleError)
    return all(key in about for key in REQUIRED)


def _names(paths: Iterable[Path]) -> str:
    names = [name if (name := path.name).isprintable() else ascii(name) for path in paths]
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _listing(tree: _Tree) -> str:
    """What the folder holds, for an error; and what a file of another server asks for."""
    paths = [*tree.files, *(folder.path for folder in tree.folders)]
    if not paths:
        return "it is empty"
    archives = [path for path in tree.all_files() if path.suffix == ".mar"]
    hint = (
        f"; {archives[0].name} is an archive of TorchServe: unpack it, and put the config beside "
        "its checkpoint"
        if archives
        else ""
    )
    return f"found {_names(paths)}{hint}"
