"""Which part of the built config a dict is: its path, and who wrote its keys."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any


@dataclass(frozen=True)
class Slice:
    """One dict of a config: its dotted path from the root, "" for the root itself."""

    path: str
    data: Mapping[Any, Any]

    @cached_property
    def inner(self) -> list["Slice"]:
        """The dicts that are inside this one when first asked, at any depth, outer ones first."""
        return list(_inner(self.path, self.data))


def _inner(path: str, value: Any) -> Iterator[Slice]:
    items: Any = ()
    if isinstance(value, Mapping):
        items = value.items()
    elif isinstance(value, list | tuple):
        items = enumerate(value)
    for key, item in items:
        below = f"{path}.{key}" if path else str(key)
        if isinstance(item, Mapping):
            yield Slice(below, item)
        yield from _inner(below, item)


@dataclass
class Slices:
    """Knows the path of every dict that one build has handed out.

    Each constructor gets copies of its own, so that none can change the config of another; the
    copies keep their paths.
    """

    _by_id: dict[int, Slice] = field(default_factory=dict)

    def copy(self, value: Any, path: str | None = "") -> Any:
        """Copies a tree of dicts, lists and tuples; `path` None if it is no part of the config."""
        if isinstance(value, Mapping):
            known = self._by_id.get(id(value))
            here = known.path if known else path
            twin = {k: self.copy(v, _below(here, k)) for k, v in value.items()}
            if here is not None:
                self._by_id[id(twin)] = Slice(here, twin)  # holds twin, so the id stays its own
            return twin
        if isinstance(value, list | tuple):
            items = [self.copy(item, _below(path, i)) for i, item in enumerate(value)]
            return items if isinstance(value, list) else _like(value, items)
        return value

    def find(self, cfg: Mapping[Any, Any], parent: Slice | None) -> Slice | None:
        """The slice that `cfg` is, or was copied or changed from inside the parent's slice."""
        if id(cfg) in self._by_id:
            return self._by_id[id(cfg)]
        candidates = parent.inner if parent else []
        scored = [(_likeness(cfg, each.data), -len(each.path), each) for each in candidates]
        best = max(scored, key=lambda entry: entry[:2], default=None)
        return best[2] if best and best[0] > 0 else None


def _below(path: str | None, key: Any) -> str | None:
    if path is None:
        return None
    return f"{path}.{key}" if path else str(key)


def _like(value: tuple[Any, ...], items: list[Any]) -> tuple[Any, ...]:
    return type(value)(*items) if hasattr(value, "_fields") else tuple(items)


def _likeness(cfg: Mapping[Any, Any], other: Mapping[Any, Any]) -> float:
    """How much of `other` stands in `cfg`, 0..1; 0 when their types differ or it has no type."""
    if "type" not in other or other["type"] != cfg.get("type"):
        return 0.0
    same = sum(bool(key in cfg and cfg[key] == value) for key, value in other.items())
    return same / max(len(other), len(cfg))
