"""Scopes: which package's names a bare type name means while something is built."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

# Prefixes of published configs. Their classes stand in our own registries, so that
# `mmdet.DETR` and `DETR` are the same unless a child registry of that scope says otherwise.
FOREIGN = frozenset(
    {"mmcv", "mmengine", "mmdet", "mmdet3d", "mmcls", "mmpretrain", "mmseg", "mmyolo", "mmpose"}
    | {"mmaction", "mmtrack", "mmocr", "mmrotate", "mmselfsup", "mmrazor", "mmagic", "mmedit"}
    | {"mmgen", "torch", "torchvision", "cupola"}
)

_current: ContextVar[str | None] = ContextVar("cupola_default_scope", default=None)


def current_scope() -> str | None:
    """The scope that bare names are sought in first, or None."""
    return _current.get()


@contextmanager
def default_scope(name: str | None) -> Iterator[None]:
    """Bare names mean those of scope `name` first, as a config's `default_scope` asks for."""
    token = _current.set(name or _current.get())
    try:
        yield
    finally:
        _current.reset(token)
