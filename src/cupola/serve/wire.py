"""Frames between workers, runners and the mould: a JSON header and a body of bytes.

A body that is larger than the threshold lies in a file of the spool (shared memory) instead; the
header then names it. The worker removes the file once the request is answered, so that a replay
still finds it.
"""

import mmap
import os
import struct
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any, TypeAlias

import orjson

Body: TypeAlias = "bytes | bytearray | memoryview[int]"
_PREFIX = struct.Struct("<IQ")
_LARGEST_HEADER = 64 * 1024**2
_numbers = count()


class WireError(Exception):
    """Bytes that are no frame; the connection is of no more use."""


def pack(header: dict[str, Any], body: Body = b"") -> list[Body]:
    """The pieces of one frame, for writelines or sendmsg."""
    text = orjson.dumps(header, option=orjson.OPT_SERIALIZE_NUMPY)
    head = _PREFIX.pack(len(text), len(body)) + text
    return [head, body] if len(body) else [head]


def spill(body: Body, spool: Path) -> str:
    """Writes a large body to the spool; returns its path."""
    path = spool / f"{os.getpid()}-{next(_numbers)}"
    with path.open("xb") as file:
        file.write(body)
    return str(path)


def collect(header: dict[str, Any], body: Body) -> Body:
    """The body of a frame: the bytes that came along, or the mapped file that they name."""
    path = header.get("spool")
    if path is None:
        return body
    with Path(path).open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        mapped = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) if size else b""
        return memoryview(mapped)


class Unpacker:
    """Cuts a stream of bytes into frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[dict[str, Any], bytes]]:
        """The frames that `data` completes."""
        self._buffer += data
        while len(self._buffer) >= _PREFIX.size:
            header_size, body_size = _PREFIX.unpack_from(self._buffer)
            if header_size > _LARGEST_HEADER:
                raise WireError(f"a header of {header_size} bytes")
            end = _PREFIX.size + header_size + body_size
            if len(self._buffer) < end:
                return
            start = _PREFIX.size + header_size
            header = orjson.loads(bytes(self._buffer[_PREFIX.size : start]))
            body = bytes(self._buffer[start:end])
            del self._buffer[:end]
            yield header, body
