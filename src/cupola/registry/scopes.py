"""Scopes: the package whose names a bare type name refers to during a build."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

# Prefixes in published configs. Our own registries hold the classes of these packages, so that
# `mmdet.DETR` and `DETR` are the same class unless a child registry of that scope differs.
FOREIGN = frozenset(
    {"mmcv", "mmengine", "mmdet", "mmdet3d", "mmcls", "mmpretrain", "mmseg", "mmyolo", "mmpose"}
    | {"mmaction", "mmtrack", "mmocr", "mmrotate", "mmselfsup", "mmrazor", "mmagic", "mmedit"}
    | {"mmgen", "torch", "torchvision", "cupola"}
)

_current: ContextVar[str | None] = ContextVar("cupola_default_scope", default=None)


def current_scope() -> str | None:
    """The scope in which bare names are looked up first, or None."""
    return _current.get()


def bare_type(cfg: Mapping[str, Any]) -> str:
    """The type of a config without its package: `mmcv.GELU` -> `GELU`."""
    return str(cfg.get("type")).rpartition(".")[2]


def without_scope(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """A config's arguments for a maker that is not in a registry.

    `_scope_`, which marks dicts from another package's config, is removed, and so is the package
    of a type (`torch.optim.AdamW` -> `AdamW`).
    """
    arguments = {key: value for key, value in cfg.items() if key != "_scope_"}
    if isinstance(kind := arguments.get("type"), str) and kind.split(".")[0] in FOREIGN:
        arguments["type"] = kind.rpartition(".")[2]
    return arguments


@contextmanager
def default_scope(name: str | None) -> Iterator[None]:
    """Looks bare names up in scope `name` first, as a config's `default_scope` asks."""
    token = _current.set(name or _current.get())
    try:
        yield
    finally:
        _current.reset(token)
