"""The registries of the project; the locations of each are imported on its first look-up."""

from collections.abc import Sequence
from typing import Any

from cupola.registry.registry import Registry


def build_sequential(registry: Registry, cfgs: Sequence[Any]) -> Any:
    """A Sequential of the objects that a list of configs describes."""
    from cupola import nn

    return nn.Sequential(*(registry.build(cfg) for cfg in cfgs))


MODELS = Registry("models", locations=("cupola.models",), list_builder=build_sequential)
TASK_UTILS = Registry("task_utils", locations=("cupola.models",))
DATASETS = Registry("datasets", locations=("cupola.data",))
TRANSFORMS = Registry("transforms", locations=("cupola.data",))
METRICS = Registry("metrics", locations=("cupola.metrics",))
