"""Cupola: DETR, DETR3D, FourCastNet and BLOOM from their original configs and checkpoints.

The names below are imported on first use, so that ``import cupola`` stays free of torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cupola.bundles import Bundle
    from cupola.config import Config
    from cupola.inspect import describe
    from cupola.runtime import Predictor
    from cupola.runtime.building import build
    from cupola.weights import load_weights

__version__ = "0.2.0.dev0"

_HOME = {
    "Bundle": "cupola.bundles",
    "Config": "cupola.config",
    "Predictor": "cupola.runtime",
    "build": "cupola.runtime.building",
    "describe": "cupola.inspect",
    "load_weights": "cupola.weights",
}

__all__ = ["Bundle", "Config", "Predictor", "__version__", "build", "describe", "load_weights"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(import_module(_HOME[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'cupola' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
