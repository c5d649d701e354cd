"""Bundle: config.json, weights.safetensors, card.md, and a recorded example, in one folder.

Reading one needs no torch, so that the server's settings can.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cupola.bundles import hub
from cupola.bundles.transformers import LARGEST, from_transformers, is_transformers
from cupola.errors import BundleError, CheckpointError, did_you_mean
from cupola.files import read_settings, read_text
from cupola.files.adapters import SHIPPED, base_folder, is_adapter

WEIGHTS = "weights.safetensors"
REQUIRED = ("name", "version", "task")
OF_THE_BASE = ("hashes", "metrics")  # what a config.json says of weights that an adapter changes


@dataclass(frozen=True)
class Bundle:
    """A model, ready to be loaded.

    `config` holds name, version, task, model (its build config), preprocess, postprocess, labels,
    license and metrics, as config.json does. `weights` is set where they are not in the folder's
    weights.safetensors. With `offline` nothing that it names may be downloaded.
    """

    path: Path
    config: Mapping[str, Any]
    weights: Path | None = None
    offline: bool = False

    @staticmethod
    def load(
        source: "str | Path | Bundle", revision: str | None = None, offline: bool = False
    ) -> "Bundle":
        """A bundle by its shipped name, its folder, or its id on the hub (`hf://ORG/NAME`).

        A folder or id may also be a checkpoint of a language model or detector as transformers
        saves it, or an adapter of PEFT whose base is on this machine.
        `revision` is a branch, tag or commit on the hub; with `offline` nothing is downloaded.
        Raises BundleError.
        """
        if isinstance(source, Bundle):
            return source
        if revision is not None and not hub.is_hub_id(source):
            raise BundleError(f"{source}: a revision needs an id on the hub, {hub.PREFIX}ORG/NAME")
        if hub.is_hub_id(source):
            folder = hub.download(str(source), revision, offline)
            return read_folder(folder, hub.parse(str(source)).name)
        return read_folder(_find(source))

    @property
    def name(self) -> str:
        return str(self.config["name"])

    @property
    def version(self) -> str:
        return str(self.config["version"])

    @property
    def task(self) -> str:
        return str(self.config["task"])

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(self.config.get("labels", ()))

    @property
    def model_config(self) -> dict[str, Any]:
        """The model's build config; BundleError where there is none."""
        if "model" not in self.config:
            raise BundleError(f"{self.path / 'config.json'}: lacks model")
        return dict(self.config["model"])

    @property
    def weights_path(self) -> Path:
        return self.weights or self.path / WEIGHTS

    @property
    def card(self) -> str:
        """The card's Markdown text; empty where there is none."""
        card = self.path / "card.md"
        return read_text(card, LARGEST, BundleError) if card.is_file() else ""


def read_folder(folder: Path, name: str | None = None) -> Bundle:
    """The bundle in a folder; `name` is that of a transformers checkpoint [the folder's]."""
    if is_adapter(folder):
        return _read_adapted(folder, name)
    path = folder / "config.json"
    config = _read_json(path)
    missing = [key for key in REQUIRED if key not in config]
    if missing and is_transformers(config):
        about = from_transformers(config, name or folder.resolve().name, path)
        return Bundle(folder, about, weights=folder)
    if missing:
        raise BundleError(f"{path}: lacks {', '.join(missing)}")
    if "model" in config and not (folder / WEIGHTS).is_file():
        raise BundleError(f"{folder}: holds no {WEIGHTS}")
    return Bundle(folder, config)


def _read_adapted(folder: Path, name: str | None) -> Bundle:
    """The bundle of a folder with an adapter of PEFT: its base's config, and merged weights."""
    try:
        base = base_folder(folder)
    except CheckpointError as error:
        raise BundleError(str(error)) from None
    path = base / "config.json"
    config = _read_json(path)
    name = name or folder.resolve().name
    if all(key in config for key in REQUIRED):  # a bundle; what it measured is not the adapter's
        about = {key: config[key] for key in config if key not in OF_THE_BASE} | {"name": name}
    else:
        about = from_transformers(config, name, path)
    if about["task"] != "language":
        raise BundleError(f"{folder}: adapters are merged into language models only")
    return Bundle(folder, about, weights=folder)


def shipped_names() -> list[str]:
    """The names of the bundles inside the package."""
    if not SHIPPED.is_dir():
        return []
    return sorted(p.name for p in SHIPPED.iterdir() if (p / "config.json").is_file())


def _find(source: str | Path) -> Path:
    folder = Path(source)
    if (folder / "config.json").is_file() or is_adapter(folder):
        return folder
    if folder.is_dir():
        raise BundleError(f"{folder}: not a bundle, it holds no config.json")
    names = shipped_names()
    if str(source) in names:
        return SHIPPED / str(source)
    hint = did_you_mean(str(source), names)
    raise BundleError(
        f"{source}: neither a bundle folder nor one of the shipped bundles {names}{hint}"
    )


def _read_json(path: Path) -> dict[str, Any]:
    config = read_settings(path, BundleError)
    if not isinstance(config, dict):
        raise BundleError(f"{path}: expected an object, found a {type(config).__name__}")
    return config
