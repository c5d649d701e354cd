"""Scopes: the package whose names a bare type name refers to during a build."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

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


@contextmanager
def default_scope(name: str | None) -> Iterator[None]:
    """Looks bare names up in scope `name` first, as a config's `default_scope` asks."""
    token = _current.set(name or _current.get())
    try:
        yield
    finally:
        _current.reset(token)
