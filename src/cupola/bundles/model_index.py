"""The index of published models that a wheel of MMDetection carries: their configs and checkpoints.

A wheel, installed or unpacked in a folder of CUPOLA_CONFIG_PATH, has `mmdet/.mim/model-index.yml`,
which lists a metafile.yml for each family. These name a model, its aliases, its config, and the URL
of its checkpoint.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

from cupola.config.bases import VARIABLE, Roots
from cupola.config.formats import read_yaml
from cupola.errors import ConfigError, did_you_mean

PACKAGE = "mmdet"


class Published(NamedTuple):
    """A model of the index: its config's file, and the URL of its checkpoint if it has one."""

    config: Path
    weights: str | None


def find_published(name: str) -> Published:
    """The model of that name or alias, in any case; ConfigError if there is none."""
    folder = _folder(name)
    known = []
    for family, about in _models(folder):
        names = [about["Name"], *_listed(about.get("Alias"))]
        if name.lower() in (str(each).lower() for each in names):
            return _published(folder, family, about)
        known += names
    raise ConfigError(
        f"{name}: neither a config, a bundle, nor a model in {folder / 'model-index.yml'}"
        f"{did_you_mean(name, map(str, known))}"
    )


def published_weights(config: Path) -> str | None:
    """The URL of the checkpoint that the metafile.yml beside a config states for it, if it does."""
    try:
        models = _listed(_read(config.parent, "metafile.yml").get("Models"))
    except ConfigError:
        return None
    for about in models:
        if (
            isinstance(about, Mapping)
            and Path(unquote(str(about.get("Config")))).name == config.name
        ):
            return next((str(each) for each in _listed(about.get("Weights"))), None)
    return None


def _folder(name: str) -> Path:
    """Where the index is."""
    try:
        found = Roots(Path()).package_folder(PACKAGE, name) / ".mim"
    except ConfigError as error:
        raise ConfigError(f"{error}; or pass the path of a config, or a bundle") from None
    if not (found / "model-index.yml").is_file():
        raise ConfigError(
            f"{name}: the package {PACKAGE!r} in {found.parent} carries no index of models; put a "
            f"folder with an unpacked wheel first in {VARIABLE}, or pass the path of a config"
        )
    return found


def _models(folder: Path) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """What the metafiles say of each model, and the folder of its family."""
    for inner in _listed(_read(folder, "model-index.yml").get("Import")):
        for about in _listed(_read(folder, str(inner)).get("Models")):
            if isinstance(about, Mapping) and "Name" in about and "Config" in about:
                yield Path(str(inner)).parent, about


def _read(folder: Path, inner: str) -> Mapping[str, Any]:
    """A file of the index; some metafiles are a bare list of models."""
    path = _inside(folder, inner)
    content = None if path is None else read_yaml(path)
    if isinstance(content, list):
        return {"Models": content}
    return content if isinstance(content, Mapping) else {}


def _inside(folder: Path, inner: str) -> Path | None:
    """The path of a file in the folder, if it is there."""
    path = (folder / inner).resolve()
    return path if path.is_relative_to(folder.resolve()) and path.is_file() else None


def _published(folder: Path, family: Path, about: Mapping[str, Any]) -> Published:
    """Some metafiles write their configs' folder as in a URL, or name another one."""
    stated = unquote(str(about["Config"]))
    config = _inside(folder, stated) or _inside(folder, str(family / Path(stated).name))
    if config is None:
        raise ConfigError(f"{about['Name']}: its config {stated} is not in {folder}")
    weights = next(iter(_listed(about.get("Weights"))), None)
    return Published(config, None if weights is None else str(weights))


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]
