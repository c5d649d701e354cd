"""One stream of an HTTP/2 connection: a request and its response, with flow control."""

import asyncio
from collections import deque
from typing import Protocol

from cupola.serve.http2.frames import DATA, END_STREAM, MAX_WINDOW, head
from cupola.serve.http2.headers import Head
from cupola.serve.http2.writer import FrameWriter
from cupola.serve.ipc.frames import Body

SMALL = 16 * 1024  # bytes of a response that is written as one piece


class StreamHandler(Protocol):
    """Receives what the client sends on a stream. `began_at`: when the present message began."""

    began_at: float

    @property
    def expects_more(self) -> bool:
        """Whether a part of a message has arrived, so that the rest is due."""

    @property
    def received(self) -> int:
        """Bytes of that message that have arrived."""

    def feed(self, data: bytes) -> None:
        """Takes bytes of the request's body."""

    def end(self) -> None:
        """The client has sent everything."""

    def cancel(self) -> None:
        """The client has left, or reset the stream."""

    def time_out(self) -> None:
        """The body arrives too slowly."""

    def drain(self, seconds: float) -> None:
        """The worker stops: ends a stream that has been idle for `seconds`."""


class StreamOwner(Protocol):
    """What a stream needs of its connection."""

    writer: FrameWriter

    def close_stream(self, stream: "Stream") -> None:
        """Forgets a stream whose response is complete."""

    def credit(self, stream: "Stream", size: int) -> None:
        """Lets the client send as many bytes more."""


class Stream:
    """The server's end. `handler` is set by whoever answers."""

    __slots__ = (
        "_connection", "_queue", "_trailers", "_waiter", "_writer", "began_at", "blocked_at",
        "closed", "credit", "handler", "head", "id", "receive_window", "received_end",
        "send_window",
    )  # fmt: skip
    handler: StreamHandler

    def __init__(
        self, connection: StreamOwner, number: int, head: Head, windows: tuple[int, int], now: float
    ) -> None:
        self._connection, self._writer = connection, connection.writer
        self.id, self.head = number, head
        self.send_window, self.receive_window = windows
        self.began_at, self.blocked_at = now, 0.0
        self.closed = self.received_end = False
        self.credit = 0  # bytes that the client may send more, but has not been told yet
        self._queue: deque[memoryview] = deque()
        self._trailers: bytes | None = None
        self._waiter: asyncio.Future[None] | None = None

    async def writable(self) -> None:
        """Waits until the client has taken what was sent, or has left."""
        await self._writer.writable.wait()
        while self._queue and not self.closed:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def send_head(self, block: bytes) -> None:
        """Sends the head of the response."""
        if not self.closed:
            self._writer.put_headers(self.id, block, end=False)

    def send(self, *pieces: Body) -> None:
        """Sends a part of the body, as soon as the client's windows allow."""
        if not self.closed:
            self._queue.extend(memoryview(piece) for piece in pieces if len(piece))
            self.pump()

    def finish(self, trailers: bytes) -> None:
        """Ends the response with a header block."""
        if not self.closed and self._trailers is None:
            self._trailers = trailers
            self.pump()

    def respond(self, block: bytes, data: bytes, trailers: bytes) -> None:
        """Sends a whole response: a small one as one piece."""
        size = len(data)
        if self.closed:
            return
        writer = self._writer
        fits = size <= min(SMALL, self.send_window, writer.window)
        if not fits or max(len(block), len(trailers)) > writer.max_frame:
            self.send_head(block)
            self.send(data)
            self.finish(trailers)
            return
        writer.window -= size
        writer.put(
            b"".join(
                (
                    head(1, 4, self.id, len(block)), block,
                    head(DATA, 0, self.id, size), data,
                    head(1, 4 | END_STREAM, self.id, len(trailers)), trailers,
                )
            )
        )  # fmt: skip
        self._close()

    def pump(self) -> None:
        """Sends what the windows allow."""
        writer = self._writer
        while self._queue:
            size = min(len(self._queue[0]), self.send_window, writer.window, writer.max_frame)
            if size <= 0:
                writer.block(self)
                return
            piece = self._queue.popleft()
            if size < len(piece):
                self._queue.appendleft(piece[size:])
            self.send_window -= size
            writer.window -= size
            writer.put(head(DATA, 0, self.id, size))
            writer.put(piece[:size])
        self.blocked_at = 0.0
        self._wake()
        if self._trailers is not None:
            writer.put_headers(self.id, self._trailers, end=True)
            self._close()

    def open_window(self, size: int) -> bool:
        """Takes a WINDOW_UPDATE; False if the window becomes too large."""
        self.send_window += size
        return self.send_window <= MAX_WINDOW

    def take(self, size: int) -> None:
        """Called when the handler has used bytes of the body."""
        if not self.received_end and not self.closed:
            self._connection.credit(self, size)

    def _close(self) -> None:
        self.closed = True
        self._connection.close_stream(self)

    def abandon(self) -> None:
        """The stream was reset, or its connection was lost."""
        self.closed = True
        self._queue.clear()
        self._wake()
        self.handler.cancel()
