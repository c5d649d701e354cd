"""Stream: what enumerate, zip, reversed and generator expressions give inside a config."""

from collections.abc import Iterable, Iterator
from typing import Any, NoReturn

from cupola.errors import ConfigError

MAX_NESTED = 20  # C code recurses through nested iterators


class Stream:
    """An iterator that can be read once, as in Python; it cannot be copied or written down."""

    __slots__ = ("_items", "depth")

    def __init__(self, items: Iterator[Any], sources: Iterable[Any] = ()) -> None:
        self.depth: int = 1 + max((s.depth for s in sources if isinstance(s, Stream)), default=0)
        if self.depth > MAX_NESTED:
            raise ConfigError(f"iterators are nested more than {MAX_NESTED} deep")
        self._items = items

    def __iter__(self) -> "Stream":
        return self

    def __next__(self) -> Any:
        return next(self._items)

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("an iterator cannot be copied")
