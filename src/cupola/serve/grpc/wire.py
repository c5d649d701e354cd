"""Reads and writes single fields of a serialized message, without copying its tensors twice.

A worker only needs the name of the model and, for some models, the parameters and the heads of
images. The runner parses the message, and writes its answer field by field.
"""

import mmap
from collections.abc import Iterator
from typing import TypeAlias

from cupola.errors import InputError

Data: TypeAlias = "bytes | bytearray | memoryview | mmap.mmap"
Field: TypeAlias = tuple[int, int, int]  # number, start and end of the content


def fields(data: Data, at: int, end: int) -> Iterator[Field]:
    """The fields with a length (texts, bytes, messages). InputError if the message is damaged."""
    while at < end:
        tag, at = _varint(data, at, end)
        kind = tag & 7
        if kind == 2:
            size, at = _varint(data, at, end)
            if size > end - at:
                raise InputError("the message is truncated")
            yield tag >> 3, at, at + size
            at += size
        elif kind == 0:
            _, at = _varint(data, at, end)
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
        else:
            raise InputError(f"the message is damaged: wire type {kind}")
    if at != end:
        raise InputError("the message is truncated")


def _varint(data: Data, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end and shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
    raise InputError("the message is truncated or damaged")


def text(data: Data, start: int, end: int) -> str:
    """A string; InputError if it is not UTF-8."""
    try:
        return bytes(data[start:end]).decode()
    except UnicodeDecodeError:
        raise InputError("a text in the message is not UTF-8") from None


def varint(value: int) -> bytes:
    """A number that is not negative."""
    if value < 128:
        return bytes((value,))
    found = bytearray()
    while value >= 128:
        found.append(value & 127 | 128)
        value >>= 7
    found.append(value)
    return bytes(found)


def field(number: int, data: bytes) -> tuple[bytes, bytes]:
    """Head and content of a field with a length; its number is below 16."""
    return bytes((number << 3 | 2,)) + varint(len(data)), data
