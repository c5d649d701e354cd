"""Converts tensors of the Open Inference Protocol, as JSON or little-endian bytes, to numpy.

BF16 exists in binary form only and is converted to float32. BYTES are object arrays of bytes.
"""

import math
import struct
from collections.abc import Iterable
from typing import Any

import numpy as np

from cupola.errors import InputError, did_you_mean

Array = np.ndarray[Any, Any]

DTYPES: dict[str, Any] = {
    "BOOL": np.dtype("?"),
    "UINT8": np.dtype("u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    "BF16": np.dtype("<f4"),
    "BYTES": np.dtype("O"),
}
_NAMES = {dtype: name for name, dtype in DTYPES.items() if name != "BF16"}
_LENGTH = struct.Struct("<I")
_ACCEPTS = {"b": "b", "u": "bui", "i": "bui", "f": "buif"}  # kinds of JSON numbers by target


def datatype_of(array: Array) -> str:
    """The protocol's name for an array's type."""
    found = _NAMES.get(array.dtype)
    if found is None and array.dtype.kind in "OSU":
        found = "BYTES"
    if found is None and (found := _NAMES.get(array.dtype.newbyteorder("<"))) is None:
        raise InputError(f"the protocol has no datatype for {array.dtype}")
    return found


def dtype_named(datatype: Any, tensor: str) -> Any:
    """The numpy type of a protocol datatype."""
    if not isinstance(datatype, str) or datatype not in DTYPES:
        hint = did_you_mean(str(datatype), DTYPES)
        raise InputError(f"input {tensor!r}: unknown datatype {datatype!r}{hint}")
    return DTYPES[datatype]


def check_options(tensor: str, options: Iterable[str]) -> None:
    """InputError if the parameters of an input or output ask for what the server does not do."""
    for option in options:
        if option.startswith("shared_memory"):
            raise InputError(f"{tensor}: shared memory regions are not supported")
        if option == "classification":
            raise InputError(f"{tensor}: classification is not supported; request the raw output")


def check_shape(shape: Any, tensor: str) -> tuple[int, ...]:
    """Validates a shape from a request: a list of integers >= 0."""
    if isinstance(shape, list) and len(shape) <= 32:
        for size in shape:
            if type(size) is not int or not 0 <= size < 2**40:
                break
        else:
            return tuple(shape)
    raise InputError(f"input {tensor!r}: shape must be a list of sizes, got {str(shape)[:80]}")


def from_json(data: Any, datatype: str, shape: tuple[int, ...], tensor: str) -> Array:
    """Converts flat or nested lists to an array of `shape`."""
    dtype = dtype_named(datatype, tensor)
    if datatype == "BF16":
        raise InputError(f"input {tensor!r}: BF16 is supported in binary form only")
    flat = _strings(data, tensor) if datatype == "BYTES" else _numbers(data, dtype, tensor)
    if flat.size != math.prod(shape):
        raise InputError(f"input {tensor!r}: shape {list(shape)} does not hold {flat.size} values")
    return flat.reshape(shape)


def _numbers(data: Any, dtype: Any, tensor: str) -> Array:
    try:
        array = np.asarray(data)
    except (ValueError, OverflowError, TypeError):
        raise InputError(f"input {tensor!r}: data is not a regular array of {dtype}") from None
    if array.size == 0:
        return np.empty(0, dtype)
    if array.dtype.kind not in _ACCEPTS[dtype.kind]:
        raise InputError(f"input {tensor!r}: data of type {array.dtype} is not {dtype}")
    narrow = array.astype(dtype)
    if dtype.kind in "ui" and not np.array_equal(narrow, array):
        raise InputError(f"input {tensor!r}: values out of range for {dtype}")
    return narrow.reshape(-1)


def _strings(data: Any, tensor: str) -> Array:
    stack, found = [data], []
    while stack:
        item = stack.pop()
        if isinstance(item, list):
            stack.extend(reversed(item))
        elif isinstance(item, str):
            found.append(item.encode())
        else:
            raise InputError(f"input {tensor!r}: BYTES data must be strings, got {item!r:.40}")
    return object_array(found)


def object_array(items: list[bytes]) -> Array:
    """A one-dimensional object array; np.array would misread items of equal length."""
    array = np.empty(len(items), dtype=object)
    array[:] = items
    return array


def from_bytes(raw: memoryview, datatype: str, shape: tuple[int, ...], tensor: str) -> Array:
    """Converts the binary form to an array of `shape`; the length must match exactly."""
    dtype = dtype_named(datatype, tensor)
    count = math.prod(shape)
    if datatype == "BYTES":
        items = _split_bytes(raw, tensor)
        if len(items) != count:
            raise InputError(f"input {tensor!r}: shape {list(shape)} but {len(items)} elements")
        return object_array(items).reshape(shape)
    size = 2 if datatype == "BF16" else dtype.itemsize
    if len(raw) != count * size:
        raise InputError(
            f"input {tensor!r}: {datatype} of shape {list(shape)} needs {count * size} bytes,"
            f" got {len(raw)}"
        )
    if datatype == "BF16":
        return (np.frombuffer(raw, "<u2").astype("<u4") << 16).view("<f4").reshape(shape)
    return np.frombuffer(raw, dtype).reshape(shape)


def _split_bytes(raw: memoryview, tensor: str) -> list[bytes]:
    items, at = [], 0
    while at < len(raw):
        if at + 4 > len(raw):
            raise InputError(f"input {tensor!r}: BYTES data ends inside a length")
        (size,) = _LENGTH.unpack_from(raw, at)
        at += 4
        if at + size > len(raw):
            raise InputError(f"input {tensor!r}: BYTES data ends inside an element")
        items.append(bytes(raw[at : at + size]))
        at += size
    return items


def to_json(array: Array) -> Any:
    """Flat data for a JSON answer, where NaN and infinities become null."""
    flat = array.reshape(-1)
    if array.dtype.kind in "OSU":
        return [item.decode("utf-8", "replace") if isinstance(item, bytes) else str(item)
                for item in flat]  # fmt: skip
    if array.dtype.kind == "f" and array.dtype.itemsize == 2:
        flat = flat.astype(np.float32)
    return np.ascontiguousarray(flat)


def to_bytes(array: Array) -> bytes:
    """The binary form, little-endian, row-major."""
    if array.dtype.kind in "OSU":
        items = [i if isinstance(i, bytes) else str(i).encode() for i in array.reshape(-1)]
        return b"".join(_LENGTH.pack(len(item)) + item for item in items)
    return np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"), copy=False)).tobytes()
