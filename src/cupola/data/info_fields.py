"""Reads the entries of an info file's dicts; an error names the sample and the entry."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cupola.errors import DataError

Array = NDArray[np.float64]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Fields:
    """The entries of a dict in a file. `where` is the file and the sample, for errors."""

    content: Mapping[str, Any]
    where: str
    path: str = ""

    @classmethod
    def of(cls, value: Any, where: str, path: str = "") -> "Fields":
        """DataError unless `value` is a dict."""
        if not isinstance(value, Mapping):
            raise DataError(f"{where}: {path or 'the sample'} is no dict but {_kind(value)}")
        return cls(value, where, path)

    def has(self, key: str) -> bool:
        """Whether there is a value that is not None."""
        return self.content.get(key) is not None

    def need(self, key: str) -> Any:
        """The value of a key; DataError that says which keys there are."""
        if not self.has(key):
            raise DataError(f"{self.at(key)} is missing; there are {_listed(self.content)}")
        return self.content[key]

    def dict(self, key: str) -> "Fields":
        """The dict below a key."""
        return Fields.of(self.need(key), self.where, self._name(key))

    def list(self, key: str) -> Sequence[Any]:
        """The list below a key; an empty one if the key is missing."""
        found = self.content.get(key)
        if found is None:
            return ()
        if not isinstance(found, (list, tuple, np.ndarray)) or np.ndim(found) == 0:
            raise DataError(f"{self.at(key)} is no list but {_kind(found)}")
        return list(found)

    def text(self, key: str) -> str:
        """The text below a key."""
        found = self.need(key)
        if not isinstance(found, str):
            raise DataError(f"{self.at(key)} is no text but {_kind(found)}")
        return str(found)

    def numbers(self, key: str, *shapes: Shape) -> Array:
        """The numbers below a key, of one of the shapes; -1 stands for any length."""
        value = self.need(key)
        try:
            found = np.asarray(value, float)
        except (TypeError, ValueError):
            raise DataError(f"{self.at(key)} holds something other than numbers") from None
        if 0 in found.shape and any(-1 in shape for shape in shapes):
            return found.reshape(0, *next(shape for shape in shapes if -1 in shape)[1:])
        if not any(_fits(found.shape, shape) for shape in shapes):
            raise DataError(
                f"{self.at(key)} has shape {list(found.shape)}; accepted are "
                f"{' and '.join(str(list(shape)).replace('-1', 'N') for shape in shapes)}"
            )
        return found

    def transform(self, key: str) -> Array:
        """A rigid transform [4, 4]; of [3, 4] the last row is added."""
        found = self.numbers(key, (4, 4), (3, 4))
        return np.vstack((found[:3], [0.0, 0.0, 0.0, 1.0]))

    def at(self, key: str) -> str:
        """The file, the sample and the entry."""
        return f"{self.where}: {self._name(key)}"

    def _name(self, key: str) -> str:
        return f"{self.path}.{key}" if self.path else key


def _fits(found: Shape, wanted: Shape) -> bool:
    return len(found) == len(wanted) and all(
        want in (-1, have) for have, want in zip(found, wanted, strict=True)
    )


def _kind(value: Any) -> str:
    return "empty" if value is None else f"of type {type(value).__name__}"


def _listed(content: Mapping[str, Any]) -> str:
    names = [str(name) for name in content][:12]
    return ", ".join(names) if names else "no entries"
