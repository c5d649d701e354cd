"""Names -> classes, and dicts -> objects."""

from cupola.registry.blueprint import Blueprint, Difference, Part
from cupola.registry.build import build
from cupola.registry.initialise import init_weights
from cupola.registry.plugins import load_plugins
from cupola.registry.registry import Registry
from cupola.registry.roots import DATASETS, METRICS, MODELS, TASK_UTILS, TRANSFORMS
from cupola.registry.scopes import default_scope

__all__ = [
    "DATASETS",
    "METRICS",
    "MODELS",
    "TASK_UTILS",
    "TRANSFORMS",
    "Blueprint",
    "Difference",
    "Part",
    "Registry",
    "build",
    "default_scope",
    "init_weights",
    "load_plugins",
]
