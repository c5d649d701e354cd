"""Registries of named classes, and objects built from config dicts."""

from cupola.registry.build import build
from cupola.registry.build_record import BuildRecord, BuiltPart, Difference
from cupola.registry.initialize import init_weights
from cupola.registry.plugins import load_plugins
from cupola.registry.registries import DATASETS, METRICS, MODELS, TASK_UTILS, TRANSFORMS
from cupola.registry.registry import Registry
from cupola.registry.scopes import bare_type, default_scope, without_scope

__all__ = [
    "DATASETS",
    "METRICS",
    "MODELS",
    "TASK_UTILS",
    "TRANSFORMS",
    "BuildRecord",
    "BuiltPart",
    "Difference",
    "Registry",
    "bare_type",
    "build",
    "default_scope",
    "init_weights",
    "load_plugins",
    "without_scope",
]
