"""Bundle: config.json, weights.safetensors, card.md, and a recorded example, in one folder."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cupola.errors import BundleError, did_you_mean

SHIPPED = Path(__file__).parent / "shipped"
TASKS = ("detection", "detection3d", "forecast", "language")
REQUIRED = ("name", "version", "task", "model")


@dataclass(frozen=True)
class Bundle:
    """A folder that ships a model.

    `config` holds name, version, task, model (its build config), preprocess, postprocess, labels,
    license and metrics, as config.json does.
    """

    path: Path
    config: Mapping[str, Any]

    @staticmethod
    def load(source: "str | Path | Bundle") -> "Bundle":
        """A shipped bundle by its name, or the bundle in a folder. Raises BundleError."""
        if isinstance(source, Bundle):
            return source
        folder = _find(source)
        config = _read_config(folder / "config.json")
        return Bundle(folder, config)

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
    def weights_path(self) -> Path:
        return self.path / "weights.safetensors"

    @property
    def card(self) -> str:
        """The card's Markdown text; empty where there is none."""
        card = self.path / "card.md"
        return card.read_text(encoding="utf-8") if card.is_file() else ""


def shipped_names() -> list[str]:
    """The bundles that come with the package, by name."""
    if not SHIPPED.is_dir():
        return []
    return sorted(p.name for p in SHIPPED.iterdir() if (p / "config.json").is_file())


def _find(source: str | Path) -> Path:
    folder = Path(source)
    if (folder / "config.json").is_file():
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


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise BundleError(f"{path}: not readable as JSON ({error})") from None
    missing = (
        [key for key in REQUIRED if key not in config] if isinstance(config, dict) else REQUIRED
    )
    if missing:
        raise BundleError(f"{path}: lacks {', '.join(missing)}")
    if config["task"] not in TASKS:
        hint = did_you_mean(str(config["task"]), TASKS)
        raise BundleError(f"{path}: task {config['task']!r} is none of {TASKS}{hint}")
    if not (path.parent / "weights.safetensors").is_file():
        raise BundleError(f"{path.parent}: holds no weights.safetensors")
    return dict(config)
