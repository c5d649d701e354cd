"""What a connection sends: the frames of one turn of the loop in one write, data within the
windows that the client has opened.
"""

import asyncio
import time
from collections import deque
from typing import Protocol

from cupola.serve.http2 import frames
from cupola.serve.ipc.frames import Body


class Blocked(Protocol):
    """A stream whose data waits for a window."""

    blocked_at: float
    closed: bool

    def pump(self) -> None:
        """Sends what the windows allow."""


class FrameWriter:
    """The sending side of one connection. `transport` is set when it is made."""

    transport: asyncio.Transport

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.window, self.max_frame = frames.DEFAULT_WINDOW, frames.DEFAULT_FRAME
        self.writable = asyncio.Event()
        self._loop = loop
        self._out: list[Body] = []
        self._flush_due = False
        self._blocked: deque[Blocked] = deque()

    def put(self, data: Body) -> None:
        """Writes with the next flush, together with what other streams send in this turn."""
        self._out.append(data)
        if not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self.flush)

    def put_headers(self, stream: int, block: bytes, *, end: bool) -> None:
        """Writes a header block with the next flush."""
        self.put(frames.header_frames(stream, block, self.max_frame, end=end))

    def flush(self) -> None:
        """Writes what waits."""
        self._flush_due = False
        out, self._out = self._out, []
        if out and not self.transport.is_closing():
            if len(out) == 1:
                self.transport.write(out[0])
            else:
                self.transport.writelines(out)

    def block(self, stream: Blocked) -> None:
        """Lets a stream wait for the client to open a window."""
        if not stream.blocked_at:
            stream.blocked_at = time.monotonic()
        if stream not in self._blocked:
            self._blocked.append(stream)

    def unblock(self) -> None:
        """Gives each waiting stream its turn."""
        waiting, self._blocked = self._blocked, deque()
        for stream in waiting:
            if not stream.closed:
                stream.pump()

    def forget_blocked(self) -> None:
        """Called when the connection is lost."""
        self._blocked.clear()
