"""Paths of the dicts in a config while it is built, whoever copies or changes them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any


@dataclass(frozen=True)
class ConfigNode:
    """One dict of a config with its dotted path, which is "" for the root."""

    path: str
    data: Mapping[Any, Any]

    @cached_property
    def descendants(self) -> list["ConfigNode"]:
        """The dicts inside this one on first access, at any depth, parents first."""
        return list(_descendants(self.path, self.data))


def _descendants(path: str, value: Any) -> Iterator[ConfigNode]:
    items: Any = ()
    if isinstance(value, Mapping):
        items = value.items()
    elif isinstance(value, list | tuple):
        items = enumerate(value)
    for key, item in items:
        below = join(path, key)
        if isinstance(item, Mapping):
            yield ConfigNode(below, item)
        yield from _descendants(below, item)


@dataclass
class ConfigPaths:
    """Remembers the path of every dict that a build has passed to a constructor.

    Each constructor gets its own copy of its arguments, so that it cannot change the config of
    another one; the copies keep their paths.
    """

    _by_id: dict[int, ConfigNode] = field(default_factory=dict)

    def copy(self, value: Any, path: str | None = "") -> Any:
        """Copies a tree of dicts, lists and tuples; `path` is None outside the config."""
        if isinstance(value, Mapping):
            known = self._by_id.get(id(value))
            here = known.path if known else path
            twin = {
                k: self.copy(v, None if here is None else join(here, k)) for k, v in value.items()
            }
            if here is not None:
                self._by_id[id(twin)] = ConfigNode(here, twin)  # keeps twin alive, and so its id
            return twin
        if isinstance(value, list | tuple):
            paths = (None if path is None else join(path, index) for index in range(len(value)))
            items = [self.copy(item, below) for item, below in zip(value, paths, strict=True)]
            return items if isinstance(value, list) else _tuple_like(value, items)
        return value

    def find(self, cfg: Mapping[Any, Any], parent: ConfigNode | None) -> ConfigNode | None:
        """The node that `cfg` is, or that it was copied or changed from inside `parent`."""
        if id(cfg) in self._by_id:
            return self._by_id[id(cfg)]
        candidates = parent.descendants if parent else []
        scored = [(_similarity(cfg, each.data), -len(each.path), each) for each in candidates]
        best = max(scored, key=lambda entry: entry[:2], default=None)
        return best[2] if best and best[0] > 0 else None


def join(path: str, key: Any) -> str:
    """The dotted path of a key inside the value at `path`."""
    return f"{path}.{key}" if path else str(key)


def _tuple_like(value: tuple[Any, ...], items: list[Any]) -> tuple[Any, ...]:
    return type(value)(*items) if hasattr(value, "_fields") else tuple(items)


def _similarity(cfg: Mapping[Any, Any], other: Mapping[Any, Any]) -> float:
    """The share of equal entries, 0..1; 0 if the types differ or there is none."""
    if "type" not in other or other["type"] != cfg.get("type"):
        return 0.0
    same = sum(bool(key in cfg and cfg[key] == value) for key, value in other.items())
    return same / max(len(other), len(cfg))
