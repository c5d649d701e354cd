"""Finds the predictor for a bundle, or makes one from a config and a checkpoint."""

import json
from collections.abc import Callable, Collection, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cupola.bundles import Bundle
from cupola.config import CONFIG_SUFFIXES, Config
from cupola.errors import BundleError, ConfigError
from cupola.registry.plugins import load_entry_points
from cupola.runtime.building import build, build_part
from cupola.runtime.predictor import Predictor
from cupola.runtime.published import bundle_config

if TYPE_CHECKING:
    from cupola.parallel import Group
    from cupola.runtime.predictors.language import LanguagePredictor

# Task -> the module whose `from_bundle(bundle, model)` makes its predictor.
MAKERS = {
    "detection": "cupola.runtime.predictors.detection",
    "detection3d": "cupola.runtime.predictors.detection3d",
    "forecast": "cupola.runtime.predictors.forecast",
    "language": "cupola.runtime.predictors.language",
}
# What a build imports only when there is one.
BUILDING = ("cupola.models", "cupola.runtime.optimize.folding")


def warm(tasks: Collection[str]) -> None:
    """Imports what predictors of these tasks need, so that processes forked later share it."""
    for module in BUILDING:
        import_module(module)
    load_entry_points()
    for task in tasks:
        if task in MAKERS:
            import_module(MAKERS[task])


def load_predictor(
    source: str | Path | Bundle, weights: str | Path | None = None, **options: Any
) -> Predictor:
    """A predictor for a shipped bundle's name, a bundle folder, or a config file and `weights`.

    Options: threshold, labels (detection), others as the task's predictor takes them.
    """
    if isinstance(source, (str, Path)) and Path(source).suffix in CONFIG_SUFFIXES:
        return _from_config(Path(source), weights, options)
    if isinstance(source, (str, Path)) and is_hugging_face(Path(source)):
        found: Predictor = import_module(MAKERS["language"]).from_hugging_face(Path(source))
        _apply(found, options)
        return found
    bundle = Bundle.load(source)
    model = build(bundle.config["model"], weights=weights or bundle.weights_path)
    maker: Callable[..., Predictor] = import_module(MAKERS[bundle.task]).from_bundle
    predictor = maker(bundle, model.eval())
    _apply(predictor, options)
    return predictor


def load_part(source: str | Path, group: "Group") -> "LanguagePredictor":
    """This rank's part of a language model: a bundle by name or folder, or a BLOOM folder."""
    language = import_module(MAKERS["language"])
    if is_hugging_face(Path(source)):
        return language.from_hugging_face(Path(source), group)
    bundle = Bundle.load(source)
    if bundle.task != "language":
        raise BundleError(f"{bundle.name}: a {bundle.task} model cannot be split over ranks")
    return language.from_bundle(
        bundle, build_part(bundle.config["model"], bundle.weights_path, group).eval()
    )


def model_config(source: str | Path) -> dict[str, Any]:
    """The model's build config, of a config file or of a bundle by name or folder."""
    if Path(source).suffix in CONFIG_SUFFIXES:
        config = Config.load(source).to_dict()
        if "model" not in config:
            raise ConfigError(f"{source}: holds no `model`")
        return dict(config["model"])
    return dict(Bundle.load(source).config["model"])


def is_hugging_face(folder: Path) -> bool:
    """Is this a checkpoint folder as transformers writes them, of a BLOOM?"""
    config = folder / "config.json"
    if not config.is_file():
        return False
    try:
        return bool(json.loads(config.read_text(encoding="utf-8")).get("model_type") == "bloom")
    except (ValueError, AttributeError):
        return False


def _from_config(path: Path, weights: str | Path | None, options: Mapping[str, Any]) -> Predictor:
    if weights is None:
        raise BundleError(f"{path}: a config needs a checkpoint; pass weights=")
    about = bundle_config(Config.load(path).to_dict(), path.stem)
    if about["task"] == "language":
        raise BundleError(f"{path}: a language model needs its tokenizer; make it a bundle first")
    model = build(about["model"], weights=weights)
    maker: Callable[..., Predictor] = import_module(MAKERS[about["task"]]).from_bundle
    predictor = maker(Bundle(path.parent, about), model.eval())
    _apply(predictor, options)
    return predictor


def _apply(predictor: Predictor, options: Mapping[str, Any]) -> None:
    for key, value in options.items():
        if not hasattr(predictor, key):
            raise TypeError(f"{type(predictor).__name__} has no option {key!r}")
        setattr(predictor, key, value)
