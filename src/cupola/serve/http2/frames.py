"""The frames of HTTP/2 (RFC 9113, sections 4 to 7): numbers, heads, and those that a server sends.

Errors of the protocol are Http2Error: of one stream, or of the connection, which it ends.
"""

import struct
from collections.abc import Iterator
from enum import IntEnum

from cupola.serve.ipc.frames import Body

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEAD = struct.Struct(">BHBBI")  # length (24 bits), type, flags, stream
HEAD_SIZE = HEAD.size
MAX_WINDOW = 2**31 - 1
DEFAULT_WINDOW, DEFAULT_FRAME = 65_535, 16_384

(
    DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE,
    CONTINUATION,
) = range(10)  # fmt: skip
END_STREAM = ACK = 0x1
END_HEADERS, PADDED, PRIORITIZED = 0x4, 0x8, 0x20
# Settings.
HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_STREAMS, INITIAL_WINDOW, MAX_FRAME, MAX_HEADER_LIST = range(
    1, 7
)


class Code(IntEnum):
    """Error codes."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    ENHANCE_YOUR_CALM = 11


class Http2Error(Exception):
    """The client violates the protocol. Stream 0: the connection cannot be used any more."""

    def __init__(self, code: Code, message: str, stream: int = 0) -> None:
        super().__init__(message)
        self.code, self.message, self.stream = code, message, stream


def head(kind: int, flags: int, stream: int, length: int) -> bytes:
    """The head of a frame whose payload has `length` bytes."""
    return HEAD.pack(length >> 16, length & 0xFFFF, kind, flags, stream)


def frame(kind: int, flags: int, stream: int, payload: Body = b"") -> bytes:
    """A complete frame with a small payload."""
    return head(kind, flags, stream, len(payload)) + payload


def settings(values: dict[int, int]) -> bytes:
    """A SETTINGS frame."""
    return frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", *pair) for pair in values.items()))


def reset(stream: int, code: Code) -> bytes:
    """RST_STREAM."""
    return frame(RST_STREAM, 0, stream, struct.pack(">I", code))


def window_update(stream: int, size: int) -> bytes:
    """WINDOW_UPDATE; stream 0 is the connection."""
    return frame(WINDOW_UPDATE, 0, stream, struct.pack(">I", size))


def goaway(last: int, code: Code, text: str = "") -> bytes:
    """GOAWAY; streams above `last` were not processed."""
    return frame(GOAWAY, 0, 0, struct.pack(">II", last, code) + text.encode()[:1000])


def header_frames(stream: int, block: bytes, limit: int, *, end: bool) -> bytes:
    """HEADERS, and CONTINUATION frames if the block does not fit into one of `limit` bytes."""
    flags = END_STREAM if end else 0
    if len(block) <= limit:
        return frame(HEADERS, flags | END_HEADERS, stream, block)
    pieces = [block[at : at + limit] for at in range(0, len(block), limit)]
    found = [frame(HEADERS, flags, stream, pieces[0])]
    found += [frame(CONTINUATION, 0, stream, piece) for piece in pieces[1:-1]]
    return b"".join([*found, frame(CONTINUATION, END_HEADERS, stream, pieces[-1])])


def unpadded(flags: int, payload: bytes) -> bytes:
    """The payload of DATA or HEADERS without padding and, in HEADERS, without the priority."""
    if flags & PADDED:
        if not payload or payload[0] >= len(payload):
            raise Http2Error(Code.PROTOCOL_ERROR, "more padding than payload")
        payload = payload[1 : len(payload) - payload[0]]
    return payload


def read_settings(payload: bytes) -> Iterator[tuple[int, int]]:
    """The settings in a frame; Http2Error for values that are not allowed."""
    if len(payload) % 6:
        raise Http2Error(Code.FRAME_SIZE_ERROR, "SETTINGS with a partial entry")
    for name, value in struct.iter_unpack(">HI", payload):
        if name == INITIAL_WINDOW and value > MAX_WINDOW:
            raise Http2Error(Code.FLOW_CONTROL_ERROR, f"initial window of {value}")
        if name == MAX_FRAME and not DEFAULT_FRAME <= value < 2**24:
            raise Http2Error(Code.PROTOCOL_ERROR, f"maximum frame of {value}")
        if name == ENABLE_PUSH and value > 1:
            raise Http2Error(Code.PROTOCOL_ERROR, f"ENABLE_PUSH {value}")
        yield name, value
