"""Names -> classes, and dicts -> objects."""

from cupola.registry.build import build
from cupola.registry.registry import Registry
from cupola.registry.roots import DATASETS, METRICS, MODELS, TASK_UTILS, TRANSFORMS

__all__ = ["DATASETS", "METRICS", "MODELS", "TASK_UTILS", "TRANSFORMS", "Registry", "build"]
