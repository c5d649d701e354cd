"""The dicts of a config, which remember the file and line that wrote each value."""

import copy
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from cupola.errors import did_you_mean

SCALARS = frozenset({str, int, float, bool, type(None)})  # they need no copy and no look inside


class Origin(NamedTuple):
    """The file and line in which a value was written; lines count from 1, and 0 means none."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file


class TracedDict(dict[Any, Any]):
    """A dict with an Origin per key; this is what `dict(...)` means inside a config file."""

    __slots__ = ("origins",)
    origins: dict[Any, Origin]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        object.__setattr__(self, "origins", {})

    def __delitem__(self, key: Any) -> None:
        super().__delitem__(key)
        self.origins.pop(key, None)


class ConfigDict(TracedDict):
    """A dict whose keys can be read, set and deleted as attributes; `update` merges nested dicts.

    A key named like a dict method (``items``) is reached by ``cfg["items"]`` only.
    """

    __slots__ = ()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for key, value in self.items():
            if type(value) not in SCALARS:
                dict.__setitem__(self, key, wrap(value))
        for source in args:
            self.origins.update(getattr(source, "origins", {}))

    @classmethod
    def of(cls, pairs: dict[Any, Any], origins: dict[Any, Origin]) -> "ConfigDict":
        """A ConfigDict of pairs whose dicts already are ConfigDicts."""
        made = cls.__new__(cls)
        dict.update(made, pairs)
        object.__setattr__(made, "origins", origins)
        return made

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(key, wrap(value))

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            hint = did_you_mean(name, [key for key in self if isinstance(key, str)])
            raise AttributeError(f"the config has no key {name!r} here{hint}") from None

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def __delattr__(self, name: str) -> None:
        try:
            del self[name]
        except KeyError:
            raise AttributeError(f"the config has no key {name!r} here") from None

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Sets keys; where old and new value are both dicts, the new one is merged in."""
        for key, value in dict(*args, **kwargs).items():
            old = self.get(key)
            if isinstance(old, ConfigDict) and isinstance(value, dict):
                old.update(value)
            else:
                self[key] = value
        for source in args:
            self.origins.update(getattr(source, "origins", {}))

    def copy(self) -> "ConfigDict":
        """A shallow copy."""
        return ConfigDict.of(self, self.origins.copy())

    __copy__ = copy

    def __deepcopy__(self, memo: dict[int, Any]) -> "ConfigDict":
        twin = self.copy()
        for key, value in self.items():
            dict.__setitem__(twin, key, copy.deepcopy(value, memo))
        return twin

    def __reduce__(self) -> tuple[Any, ...]:
        return ConfigDict, (plain(self),)

    def to_dict(self) -> dict[Any, Any]:
        """The content as plain nested dicts, lists and tuples."""
        return {key: plain(value) for key, value in self.items()}


def wrap(value: Any) -> Any:
    """Turns every dict in a tree of dicts, lists and tuples into a ConfigDict."""
    if isinstance(value, dict):
        return value if isinstance(value, ConfigDict) else ConfigDict(value)
    if isinstance(value, list | tuple):
        return type(value)([e if type(e) in SCALARS else wrap(e) for e in value])
    return value


def plain(value: Any) -> Any:
    """Copies a tree of dicts, lists and tuples, with every mapping turned into a plain dict."""
    if isinstance(value, Mapping):
        return {k: e if type(e) in SCALARS else plain(e) for k, e in value.items()}
    if isinstance(value, list | tuple):
        return type(value)([e if type(e) in SCALARS else plain(e) for e in value])
    return value


def leaves(value: Any) -> Iterator[tuple[str, Any]]:
    """Every value that is not a dict or list, with its dotted path (``model.neck.0.type``)."""
    return ((path, leaf) for path, leaf, _ in leaves_with_origins(value))


def leaves_with_origins(
    value: Any, path: str = "", origin: Origin | None = None
) -> Iterator[tuple[str, Any, Origin | None]]:
    """Every value that is not a dict or list, with its path and the origin nearest to it."""
    if isinstance(value, Mapping) and value:
        origins = getattr(value, "origins", {})
        for key, item in value.items():
            inner = f"{path}.{key}" if path else str(key)
            yield from leaves_with_origins(item, inner, origins.get(key, origin))
    elif isinstance(value, list | tuple) and value:
        for index, item in enumerate(value):
            inner = f"{path}.{index}" if path else str(index)
            yield from leaves_with_origins(item, inner, origin)
    else:
        yield path, value, origin
