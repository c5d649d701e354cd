"""Unpickling without importing or calling anything that a file names.

Every global that a pickle names becomes a function of this file or an inert placeholder. NumPy's
arrays are rebuilt from whitelisted types and bytes whose length is checked; NumPy's own
constructors never see what a file says (they accept addresses and flags that forge memory).
"""

import io
import math
import pickle
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from typing import Any

import numpy as np

from cupola.files.guard import guarded

# What reading may cost beyond the file itself: values in memory per byte of the file, and a base.
MEMORY_PER_BYTE, MEMORY_BASE = 40, 120 * 2**20
SECONDS_PER_BYTE, SECONDS_BASE = 2e-7, 0.8
# Values as a tree, per byte of the file: one that is written once may be referred to many times.
VALUES_PER_BYTE, VALUES_BASE = 8, 100_000
_NUMERIC = {f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8)} | {"f2", "f4", "f8", "b1"}
_NUMERIC |= {"c8", "c16"}


class Placeholder:
    """Stands for an object of a class that the reader does not know. It does nothing.

    `name` is the dotted name that the file gives; arguments and state are dropped.
    """

    name = "unknown"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass

    def __call__(self, *args: Any, **kwargs: Any) -> "Placeholder":
        return self

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, value: Any) -> None:
        """Items that the file adds to a list-like object are dropped."""

    extend = add = append

    def __repr__(self) -> str:
        return f"<{self.name}, not read>"


class Sealed:
    """A function that a pickle may call, and may not alter: BUILD sets attributes of any object."""

    __slots__ = ("_function", "name")
    _function: Callable[..., Any]
    name: str

    def __init__(self, function: Callable[..., Any], name: str = "") -> None:
        object.__setattr__(self, "_function", function)
        object.__setattr__(self, "name", name)

    def __call__(self, *args: Any) -> Any:
        try:
            return self._function(*args)
        except (TypeError, AttributeError) as error:
            raise pickle.UnpicklingError(f"it is damaged ({error})") from None

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("it alters a function of the reader")

    def __setattr__(self, name: str, value: Any) -> None:
        raise pickle.UnpicklingError("it alters a function of the reader")


class _Type:
    """A NumPy type as a pickle describes it: `numpy.dtype("f8", False, True)` and its state."""

    def __init__(self, name: Any, *flags: Any) -> None:
        text = name.decode("ascii", "replace") if isinstance(name, bytes) else str(name)
        self.text, self.order = text.lstrip("<>|="), "<"

    def __setstate__(self, state: Any) -> None:
        order = state[1] if isinstance(state, tuple) and len(state) >= 2 else "|"
        order = order.decode("ascii", "replace") if isinstance(order, bytes) else order
        self.order = order if order in ("<", ">") else "<"
        if isinstance(state, tuple) and len(state) >= 5 and state[4] is not None:
            raise pickle.UnpicklingError("arrays with named fields are not plain data")

    @property
    def is_object(self) -> bool:
        return self.text in ("O", "O8", "O4")

    def real(self) -> "np.dtype[Any]":
        """The type, if it is a plain one: numbers, booleans, or fixed-length text."""
        known = self.text in _NUMERIC
        sized_text = self.text[:1] in ("U", "S") and self.text[1:].isdecimal()
        if not known and not (sized_text and int(self.text[1:]) < 2**16):
            raise pickle.UnpicklingError(f"arrays of type {self.text[:40]!r} are not plain data")
        return np.dtype(self.order + self.text)


class _Array(np.ndarray[Any, Any]):
    """An array under construction: its state is checked before NumPy sees it."""

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise pickle.UnpicklingError("an array's state is damaged")
        _, shape, kind, fortran, raw = state
        _check_shape(shape)
        if not isinstance(kind, _Type):
            raise pickle.UnpicklingError("an array's type is damaged")
        if kind.is_object:
            _restore(self, shape, _objects(shape, raw), fortran)
            return
        if isinstance(raw, str):  # written by Python 2
            raw = raw.encode("latin1")
        _restore(self, shape, _from_bytes(raw, kind, shape), fortran)


def _restore(array: Any, shape: tuple[int, ...], values: Any, fortran: Any) -> None:
    """Gives an empty array its values, by NumPy's own rule for state that we made ourselves."""
    raw = list(values) if values.dtype == object else values.tobytes()
    state: Any = (1, shape, values.dtype, bool(fortran), raw)
    np.ndarray.__setstate__(array, state)


def _check_shape(shape: Any) -> None:
    if not isinstance(shape, tuple) or not all(
        isinstance(side, int) and not isinstance(side, bool) and side >= 0 for side in shape
    ):
        raise pickle.UnpicklingError("an array's shape is damaged")
    if len(shape) > 32:
        raise pickle.UnpicklingError(f"an array has {len(shape)} dimensions")


def _from_bytes(raw: Any, kind: _Type, shape: tuple[int, ...]) -> Any:
    if not isinstance(raw, (bytes, bytearray)):
        raise pickle.UnpicklingError("an array's values are not bytes")
    real = kind.real()
    if len(raw) != math.prod(shape) * real.itemsize:
        raise pickle.UnpicklingError(
            f"an array of shape {list(shape)[:8]} and type {real} has {len(raw)} bytes"
        )
    return np.frombuffer(raw, real) if raw else np.empty(0, real)


def _objects(shape: tuple[int, ...], raw: Any) -> Any:
    if not isinstance(raw, list) or len(raw) != math.prod(shape):
        raise pickle.UnpicklingError("an array of objects has the wrong number of them")
    values = np.empty(len(raw), object)
    values[:] = raw
    return values


def _new_array(*_: Any) -> Any:
    return np.ndarray.__new__(_Array, (0,), "i1")


def _from_buffer(raw: Any, kind: Any, shape: Any, order: Any = "C") -> Any:
    """NumPy's `_frombuffer`, which protocol 5 uses."""
    _check_shape(shape)
    if not isinstance(kind, _Type):
        raise pickle.UnpicklingError("an array's type is damaged")
    flat = _from_bytes(bytes(raw), kind, shape)
    return flat.reshape(shape, order="F" if order == "F" else "C").copy(order="K").view(_Array)


def _scalar(kind: Any, raw: Any = b"") -> Any:
    if not isinstance(kind, _Type):
        raise pickle.UnpicklingError("a number's type is damaged")
    if isinstance(raw, str):
        raw = raw.encode("latin1")
    return _from_bytes(raw, kind, ())[0]


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    """`_codecs.encode`, by which protocol 2 writes bytes."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1", "iso8859-1"):
        raise pickle.UnpicklingError(f"it encodes text as {str(encoding)[:40]!r}")
    return text.encode("latin1")


def _set(items: Any = ()) -> set[Any]:
    if not isinstance(items, (list, tuple)):
        raise pickle.UnpicklingError("a set is damaged")
    return set(items)


def _no_bytes() -> bytes:
    """Empty bytes, as protocols 0 to 2 write them."""
    return b""


def _array_class(*_: Any) -> Any:
    """What `numpy.ndarray` means in a pickle: an argument of `_reconstruct`, not to be called."""
    raise pickle.UnpicklingError("it constructs a numpy.ndarray directly")


# What plain pickles may name, and what that means here.
PLAIN: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": Sealed(OrderedDict),
    "_codecs.encode": Sealed(_encode),
    "numpy.dtype": Sealed(_Type),
    "numpy.ndarray": Sealed(_array_class),
}
for _module in ("builtins", "__builtin__"):
    PLAIN[f"{_module}.set"] = Sealed(_set)
    PLAIN[f"{_module}.bytes"] = Sealed(_no_bytes)
for _module in ("numpy.core.multiarray", "numpy._core.multiarray"):
    PLAIN[f"{_module}._reconstruct"] = Sealed(_new_array)
    PLAIN[f"{_module}.scalar"] = Sealed(_scalar)
for _module in ("numpy.core.numeric", "numpy._core.numeric"):
    PLAIN[f"{_module}._frombuffer"] = Sealed(_from_buffer)


class RestrictedUnpickler(pickle.Unpickler):
    """Unpickles with `known`, functions by the dotted names that a pickle may use.

    A name that is not there becomes a Placeholder, or is refused where `strict`.
    """

    def __init__(
        self,
        file: Any,
        known: Mapping[str, Any],
        *,
        strict: bool = True,
        encoding: str = "ASCII",
    ) -> None:
        super().__init__(file, encoding=encoding)
        self._known, self._strict = known, strict
        self._placeholders: dict[str, type[Placeholder]] = {}

    def find_class(self, module: str, name: str) -> Any:
        """What a global of the pickle means here; nothing is imported."""
        full = f"{module}.{name}"
        if full in self._known:
            return self._known[full]
        if self._strict:
            shown = " ".join(full[:200].split())
            raise pickle.UnpicklingError(f"it contains {shown}, which is not plain data")
        if full not in self._placeholders:
            self._placeholders[full] = type("Placeholder", (Placeholder,), {"name": full[:200]})
        return self._placeholders[full]


def load_plain_pickle(data: bytes, known: Mapping[str, Callable[..., Any]] | None = None) -> Any:
    """The plain values and numeric arrays of a pickle, of protocols 0 to 5.

    `known` are further functions and classes that it may name, by their dotted names.
    Raises pickle.UnpicklingError with one line that says why a pickle is refused: it names anything
    but plain data and NumPy's arrays, it is damaged, or reading it would exhaust memory or crash.
    """

    def read() -> Any:
        names = {**PLAIN, **(known or {})}
        return _plain(RestrictedUnpickler(io.BytesIO(data), names, encoding="latin1").load())

    check_pickle(read, len(data))
    value = read()
    try:
        _check_tree(value, VALUES_PER_BYTE * len(data) + VALUES_BASE)
    except RecursionError:
        raise pickle.UnpicklingError("it is nested too deeply") from None
    return value


def _check_tree(value: Any, most: int) -> None:
    """Refuse values that are small in memory and endless to walk through, such as a list of itself.

    A list that holds another one twice, and so on, doubles with each level at a few bytes a level.
    """
    sizes: dict[int, int] = {}

    def size(value: Any) -> int:
        if isinstance(value, (str, bytes, bytearray)):
            return 1 + len(value) // 16
        if not isinstance(value, (dict, list, tuple, set, frozenset, np.ndarray)):
            return 1
        if isinstance(value, np.ndarray) and value.dtype != object:
            return 1
        if id(value) not in sizes:
            sizes[id(value)] = most + 1  # until its items are known: it may hold itself
            sizes[id(value)] = 1 + sum(map(size, _items(value)))
        if sizes[id(value)] > most:
            raise pickle.UnpicklingError("its values refer to each other without end")
        return sizes[id(value)]

    size(value)


def _items(value: Any) -> Iterator[Any]:
    """The items of a container, whose own methods a pickle may hide."""
    if isinstance(value, OrderedDict):
        show_methods(value)
    if isinstance(value, dict):
        return chain(dict.keys(value), dict.values(value))
    return iter(value.flat if isinstance(value, np.ndarray) else value)


def show_methods(value: "OrderedDict[Any, Any]") -> None:
    """Remove attributes that a pickle gave a dict in the place of its methods."""
    for name in [name for name in vars(value) if hasattr(OrderedDict, name)]:
        del vars(value)[name]


def check_pickle(read: Callable[[], object], size: int, others: int = 0) -> None:
    """Raise pickle.UnpicklingError unless `read` succeeds in a child.

    size: bytes of the pickle. others: bytes of what is read with it, such as storages.
    """
    reason = guarded(
        read,
        memory=MEMORY_BASE + MEMORY_PER_BYTE * size + 2 * others,
        seconds=SECONDS_BASE + SECONDS_PER_BYTE * (size + others),
    )
    if reason is not None:
        raise pickle.UnpicklingError(reason)


def _plain(value: Any) -> Any:
    """The top value; refuse pickles that are a bare description of an array's type."""
    if isinstance(value, _Type):
        raise pickle.UnpicklingError("it is not plain data")
    return value
