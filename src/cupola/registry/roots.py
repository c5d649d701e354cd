"""The registries of the project; a registry's locations are imported on its first look-up."""

from cupola.registry.registry import Registry

MODELS = Registry("models", locations=("cupola.models",))
TASK_UTILS = Registry("task_utils", locations=("cupola.models",))
DATASETS = Registry("datasets", locations=("cupola.data",))
TRANSFORMS = Registry("transforms", locations=("cupola.data",))
METRICS = Registry("metrics", locations=("cupola.metrics",))
