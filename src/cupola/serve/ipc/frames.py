"""Frames between workers, runners and the zygote: a fixed head, optional JSON, a binary body.

The fields that every request needs are in the head, so a plain request is forwarded without
encoding or decoding JSON. A body larger than the threshold is written to a file in the spool
(shared memory), and `extra` holds its path. The worker removes the file once the request has been
answered, so it is still there if the request must be replayed.
"""

import mmap
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, TypeAlias

import orjson

Body: TypeAlias = "bytes | bytearray | memoryview[int]"
Times: TypeAlias = tuple[float, float, float, float]

CONTROL, INFER, STREAM, CANCEL, ANSWER, CHUNK = range(6)  # kinds of frames
NO_TIMES: Times = (0.0, 0.0, 0.0, 0.0)
# Body size, id, JSON size inside the body, four times, extra size, samples, batch, status, kind.
_HEAD = struct.Struct("<QQq4dIIIHB")
_MAX_EXTRA = 64 * 1024**2
_SMALL = 64 * 1024  # bytes; copying a smaller body costs less than a second write
_spool_numbers = count()


class FrameError(Exception):
    """The bytes are not a frame; the connection cannot be used any more."""


@dataclass(slots=True, eq=False)
class Frame:
    """One frame. Times are in seconds, moments on the monotonic clock.

    `times` of a request: the deadline first. `times` of an answer: the moment the runner received
    the request, then the time spent on batching, running and encoding. `json_size`: size of the
    JSON part of the body if binary tensors follow it, else -1.
    """

    kind: int
    id: int = 0
    body: Body = b""
    extra: dict[str, Any] = field(default_factory=dict)
    json_size: int = -1
    times: Times = NO_TIMES
    samples: int = 0
    batch: int = 0
    status: int = 0


def control(op: str, **details: Any) -> Frame:
    """A JSON-only frame: `op` and its details."""
    return Frame(CONTROL, extra={"op": op, **details})


def failure(call_id: int, status: int, error: str) -> Frame:
    """An answer with an HTTP error status and a message."""
    return Frame(ANSWER, call_id, extra={"error": error}, status=status)


def pack(frame: Frame) -> list[Body]:
    """The frame as bytes: one piece if it is small, else the head and the body."""
    extra = orjson.dumps(frame.extra) if frame.extra else b""
    body = frame.body
    size = len(body)
    head = _HEAD.pack(
        size, frame.id, frame.json_size, *frame.times, len(extra),
        frame.samples, frame.batch, frame.status, frame.kind,
    )  # fmt: skip
    if size > _SMALL:
        return [head + extra, body]
    return [b"".join((head, extra, body))]


class Unpacker:
    """Splits a byte stream into frames."""

    def __init__(self) -> None:
        self._left = bytearray()

    def feed(self, data: Body) -> Iterator[Frame]:
        """The frames that `data` completes."""
        if self._left:
            self._left += data
            data, self._left = self._left, bytearray()
        view, at = memoryview(data), 0
        count = len(view)
        while count - at >= _HEAD.size:
            head = _HEAD.unpack_from(view, at)
            size, number, json_size, t0, t1, t2, t3, extra_size, samples, batch, status, kind = head
            if extra_size > _MAX_EXTRA:
                raise FrameError(f"frame with {extra_size} bytes of JSON, at most {_MAX_EXTRA}")
            body_start = at + _HEAD.size + extra_size
            end = body_start + size
            if end > count:
                break
            extra = orjson.loads(view[at + _HEAD.size : body_start]) if extra_size else {}
            body, times = bytes(view[body_start:end]), (t0, t1, t2, t3)
            yield Frame(kind, number, body, extra, json_size, times, samples, batch, status)
            at = end
        if at < count:
            self._left = bytearray(view[at:])


def spill(body: Body, spool: Path) -> str:
    """Writes a large body to the spool; returns its path. OSError leaves nothing behind."""
    path = spool / f"{os.getpid()}-{next(_spool_numbers)}"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(body)
    except OSError:
        path.unlink(missing_ok=True)
        raise
    return str(path)


def load_body(frame: Frame) -> Body:
    """The body of a frame: its bytes, or the spooled file mapped into memory."""
    path = frame.extra.get("spool")
    if path is None:
        return frame.body
    with Path(path).open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        mapped = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) if size else b""
        return memoryview(mapped)
