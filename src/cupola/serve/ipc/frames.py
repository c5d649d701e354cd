"""Frames between workers, runners and the zygote: a fixed head, optional JSON, a body of bytes.

What every request needs has its place in the head, so that a plain request travels without JSON
being written or read on the way. A body that is larger than the threshold lies in a file of the
spool (shared memory) instead; `extra` then names it. The worker removes the file once the request
is answered, so that a replay still finds it.
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

MESSAGE, INFER, STREAM, CANCEL, ANSWER, CHUNK = range(6)  # kinds of frames
NO_TIMES: Times = (0.0, 0.0, 0.0, 0.0)
# Body size, id, JSON size inside the body, four times, extra size, samples, batch, status, kind.
_HEAD = struct.Struct("<QQq4dIIIHB")
_LARGEST_EXTRA = 64 * 1024**2
_SMALL = 64 * 1024  # bytes; joining so few costs less than handing over two pieces
_numbers = count()


class WireError(Exception):
    """Bytes that are no frame; the connection is of no more use."""


@dataclass(slots=True, eq=False)
class Frame:
    """One frame. Moments and times in seconds, on the monotonic clock.

    `times`: the deadline first, in a request; in an answer the moment at which the runner took
    the request, and what batching, running and encoding took. `json_size`: the bytes of the
    body's JSON part if binary tensors follow it, else -1.
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


def message(op: str, **details: Any) -> Frame:
    """A frame that is only JSON: `op` and its details."""
    return Frame(MESSAGE, extra={"op": op, **details})


def refusal(call_id: int, status: int, error: str) -> Frame:
    """An answer that is none."""
    return Frame(ANSWER, call_id, extra={"error": error}, status=status)


def pack(frame: Frame) -> list[Body]:
    """The pieces of one frame: one if it is small."""
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
    """Cuts a stream of bytes into frames."""

    def __init__(self) -> None:
        self._left = bytearray()

    def feed(self, data: Body) -> Iterator[Frame]:
        """The frames that `data` completes."""
        if self._left:
            self._left += data
            data, self._left = self._left, bytearray()
        view, at = memoryview(data), 0
        while len(view) - at >= _HEAD.size:
            head = _HEAD.unpack_from(view, at)
            body_start = at + _HEAD.size + _extra_size(head)
            end = body_start + head[0]
            if end > len(view):
                break
            yield _frame(head, view[at + _HEAD.size : body_start], view[body_start:end])
            at = end
        if at < len(view):
            self._left = bytearray(view[at:])


def _extra_size(head: tuple[Any, ...]) -> int:
    size: int = head[7]
    if size > _LARGEST_EXTRA:
        raise WireError(f"a header of {size} bytes")
    return size


def _frame(head: tuple[Any, ...], extra: memoryview, body: memoryview) -> Frame:
    _, number, json_size, *times, _, samples, batch, status, kind = head
    details = orjson.loads(extra) if extra else {}
    return Frame(
        kind, number, bytes(body), details, json_size, tuple(times), samples, batch, status
    )


def spill(body: Body, spool: Path) -> str:
    """Writes a large body to the spool; returns its path."""
    path = spool / f"{os.getpid()}-{next(_numbers)}"
    with path.open("xb") as file:
        file.write(body)
    return str(path)


def collect(frame: Frame) -> Body:
    """The body of a frame: the bytes that came along, or the mapped file that it names."""
    path = frame.extra.get("spool")
    if path is None:
        return frame.body
    with Path(path).open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        mapped = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) if size else b""
        return memoryview(mapped)
