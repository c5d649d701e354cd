"""What a client sends on an HTTP/2 connection, cut into frames.

A header block in several frames is read as one HEADERS frame.
"""

import time
from collections.abc import Callable, Iterator

from cupola.serve.http2 import frames
from cupola.serve.http2.frames import Code, Http2Error

FRAME = 256 * 1024  # bytes of the largest frame that a client may send

# Its type, flags, stream and payload. That of HEADERS is the block: no padding, no priority.
Frame = tuple[int, int, int, bytes]


class NotHttp2Error(Exception):
    """The connection does not begin with the preface of HTTP/2."""


class FrameReader:
    """Reads the frames of one client; `greet` is called when its preface has arrived."""

    def __init__(self, max_header: int, greet: Callable[[], None]) -> None:
        self.greeted = False
        self.began_at = time.monotonic()  # the oldest part that is not complete
        self._max_header, self._greet = max_header, greet
        self._buffer = b""
        self._block: tuple[int, int, bytearray] | None = None  # stream, flags, header block

    @property
    def partial(self) -> bool:
        """Whether the preface, a frame or a header block has partly arrived."""
        return bool(self._buffer) or self._block is not None or not self.greeted

    @property
    def in_data(self) -> bool:
        """Whether what has partly arrived is the data of a request."""
        return self._block is None and self._buffer[3:4] == bytes([frames.DATA])

    def read(self, data: bytes, now: float) -> Iterator[Frame]:
        """The frames that are complete with `data`. Http2Error, NotHttp2Error."""
        if not self.partial:
            self.began_at = now
        buffer = self._buffer = self._buffer + data if self._buffer else data
        at = 0
        if not self.greeted:
            if buffer[:24] != frames.PREFACE[: len(buffer)]:
                raise NotHttp2Error
            if len(buffer) < 24:
                return
            self.greeted, at = True, 24
            self._greet()
        size = len(buffer)
        while size - at >= frames.HEAD_SIZE:
            high, low, kind, flags, number = frames.HEAD.unpack_from(buffer, at)
            length = high << 16 | low
            if length > FRAME:
                raise Http2Error(Code.FRAME_SIZE_ERROR, f"a frame of {length} bytes")
            end = at + frames.HEAD_SIZE + length
            if end > size:
                break
            payload = buffer[at + frames.HEAD_SIZE : end]
            at = end
            frame = self._whole(kind, flags, number & 0x7FFFFFFF, payload)
            if frame is not None:
                self.began_at = now
                yield frame
        self._buffer = buffer[at:]

    def _whole(self, kind: int, flags: int, number: int, payload: bytes) -> Frame | None:
        """The frame, or what it completes; None if more of a header block follows."""
        block = self._block
        if kind == frames.HEADERS and block is None:
            if number % 2 == 0:
                raise Http2Error(Code.PROTOCOL_ERROR, f"HEADERS on stream {number}")
            payload = frames.unpadded(flags, payload)
            if flags & frames.PRIORITIZED:
                payload = payload[5:]
            self._check_block(len(payload))
            if not flags & frames.END_HEADERS:
                self._block = number, flags, bytearray(payload)
                return None
        elif kind == frames.CONTINUATION and block is not None and number == block[0]:
            block[2].extend(payload)
            self._check_block(len(block[2]))
            if not flags & frames.END_HEADERS:
                if not payload:
                    raise Http2Error(Code.ENHANCE_YOUR_CALM, "empty CONTINUATION")
                return None
            self._block = None
            return frames.HEADERS, block[1], number, bytes(block[2])
        elif block is not None:
            raise Http2Error(Code.PROTOCOL_ERROR, "a header block was interrupted")
        elif kind == frames.CONTINUATION:
            raise Http2Error(Code.PROTOCOL_ERROR, "CONTINUATION without HEADERS")
        return kind, flags, number, payload

    def _check_block(self, size: int) -> None:
        if size > self._max_header:
            raise Http2Error(Code.ENHANCE_YOUR_CALM, "the header is too large")
