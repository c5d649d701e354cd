"""Which classes of a model's config no registry has."""

from collections.abc import Iterator, Mapping
from typing import Any

from cupola.registry import MODELS, TASK_UTILS, default_scope
from cupola.registry.initialize import FILLS

OPERATORS = ("nms", "nms_cfg", "dqs_cfg")  # their `type` names a function of mmcv.ops, not a class


def missing_classes(cfg: Any, scope: str | None = None) -> set[str]:
    """The names of classes in a model's config that no registry has; nothing is built."""
    with default_scope(scope):
        return {name.rpartition(".")[2] for name in _missing(cfg, ())}


def _missing(value: Any, path: tuple[str, ...]) -> Iterator[str]:
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _missing(item, path)
    if not isinstance(value, Mapping):
        return
    with default_scope(value.get("_scope_")):
        name = value.get("type")
        if isinstance(name, str) and not _known(name, path):
            yield name
        for key, item in value.items():
            yield from _missing(item, (*path, str(key)))


def _known(name: str, path: tuple[str, ...]) -> bool:
    if path and path[-1] in OPERATORS:
        return True
    if "init_cfg" in path:
        return name in FILLS or name == "Pretrained"
    return name in MODELS or name in TASK_UTILS
