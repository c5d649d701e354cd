"""HTTP/1.1: one Connection per client, requests in their order, nothing lost at quit.

A draining worker keeps a connection that was lately in use, answers the request that may already
be on its way, and says `Connection: close` with that answer. Slow, oversized and malformed
requests are refused with their own status and cost nobody else anything.
"""

import asyncio
import os
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from cupola.serve.http.messages import Refusal, Request, Response, head_of
from cupola.serve.http.parser import Reader
from cupola.serve.settings.settings import Settings

PIPELINE_LIMIT = 16  # requests that may wait behind the one in work
SMALL = 64 * 1024  # bytes; joining so few to their head costs less than handing over two pieces


class Work(Protocol):
    """What goes on for a request, and need not go on when its client has left."""

    def cancel(self) -> object:
        """Nobody waits any more."""


Reply = Callable[[Request, Response], None]


class Stream:
    """Chunked writing with back-pressure; a broken stream is never ended as if it were whole."""

    def __init__(self, connection: "Connection") -> None:
        self._connection = connection

    async def write(self, data: bytes) -> None:
        """Sends one chunk, waits while the client is slower than we are."""
        await self._connection.writable.wait()
        self._connection.transport.write(b"%x\r\n%b\r\n" % (len(data), data))


class Connection(asyncio.Protocol):
    """One client. `server` knows all connections, answers, and says whether we drain."""

    transport: asyncio.Transport
    reader: Reader

    def __init__(self, server: "Server") -> None:
        self.server = server
        self.writable = asyncio.Event()
        self.waiting: deque[Request] = deque()
        self.current: Request | None = None
        self.work: Work | None = None
        self.served = 0
        self.closing = self.refused = False
        self.active_at = time.monotonic()
        self.blocked_at = 0.0

    # ---- asyncio.Protocol

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.writable.set()
        peer = transport.get_extra_info("peername")
        own = transport.get_extra_info("sockname")
        name = f"{peer[0]}:{peer[1]}" if isinstance(peer, tuple) else f"unix:{own}"
        server = self.server
        self.reader = Reader(
            server.settings, server.spool, name, server.next_id, self._take, self._proceed
        )
        server.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.closing = True
        self.writable.set()
        self.server.connections.discard(self)
        self.reader.drop()
        for request in self.waiting:
            request.release()
        if self.work is not None:
            self.work.cancel()
        if self.current is not None:
            self._finish(self.current, Response(499), 0)
        self.server.connection_closed()

    def data_received(self, data: bytes) -> None:
        self.active_at = time.monotonic()
        try:
            self.reader.feed(data, self.active_at)
        except Refusal as refusal:
            self._refuse(refusal)

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        self.blocked_at = time.monotonic()
        self.writable.clear()

    def resume_writing(self) -> None:
        self.blocked_at = 0.0
        self.writable.set()

    # ---- from the reader

    def _take(self, request: Request) -> None:
        if len(self.waiting) >= PIPELINE_LIMIT:
            raise Refusal(400, f"more than {PIPELINE_LIMIT} requests in the pipeline")
        self.waiting.append(request)
        self._next()

    def _proceed(self) -> None:
        if self.current is None and not self.waiting:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    # ---- answering

    def _next(self) -> None:
        if self.current is not None or not self.waiting or self.closing:
            return
        request = self.current = self.waiting.popleft()
        self.work = None
        self.server.active += 1
        work = self.server.answer(request, self._reply)
        if work is not None and self.current is request:
            self.work = work

    def _reply(self, request: Request, response: Response) -> None:
        """The answer to the current request; one that comes after the client left is dropped."""
        if self.current is not request:
            return
        self.served += 1
        keep = (
            request.keep_alive
            and not self.server.draining
            and not self.refused
            and self.served < self.server.settings.keepalive_requests
        )
        self.closing = not keep
        head = head_of(request.id, response, keep=keep)
        if response.stream is not None:
            self.transport.write(head)
            self.work = self.server.loop.create_task(self._stream(request, response))
            return
        self._write(head, b"" if request.method == "HEAD" or response.bodiless else response.body)
        self._finish(request, response, len(response.body))

    def _write(self, head: bytes, body: Any) -> None:
        if len(body) < SMALL:
            self.transport.write(b"".join((head, body)))
        else:
            self.transport.writelines((head, memoryview(body)))

    async def _stream(self, request: Request, response: Response) -> None:
        assert response.stream is not None
        try:
            await response.stream(Stream(self))
        except Exception as error:
            self.server.failed(request, error)
            self.transport.abort()  # no last chunk: the client must see that it is cut
            return
        self.transport.write(b"0\r\n\r\n")
        self._finish(request, response, 0)

    def _finish(self, request: Request, response: Response, sent: int) -> None:
        """The request is over, one way or another; the next one begins."""
        self.current = self.work = None
        self.active_at = time.monotonic()
        self.server.active -= 1
        request.release()
        self.server.finished(request, response, sent)
        if self.closing:
            self.transport.close()
        elif not self.refused or self.waiting:
            self._next()

    def _refuse(self, refusal: Refusal) -> None:
        """A request that cannot be read: its status, then the end of the connection."""
        if self.refused or self.closing:
            return
        self.refused = True
        reader = self.reader
        reader.drop()
        url = reader.url.decode("latin-1")[:200]
        request = Request(
            "-", url, "", {}, self.server.next_id(), reader.began_at, reader.peer, keep_alive=False
        )
        self.transport.pause_reading()
        response = self.server.refusal(refusal, request)
        if self.current is None:
            self._write(head_of(request.id, response, keep=False), response.body)
            self.closing = True
            self.transport.close()
        else:
            self.transport.abort()
        self.server.finished(request, response, len(response.body))

    # ---- time

    @property
    def idle(self) -> bool:
        """Nothing is in work and nothing of a request has arrived."""
        return self.current is None and not self.waiting and self.reader.idle

    def check_time(self, now: float) -> None:
        """Called about once a second: closes what is too slow or idle for too long."""
        limits = self.server.settings
        if self.idle:
            patience = limits.keepalive_timeout if self.served else limits.header_timeout
            if self.server.draining:
                patience = min(patience, limits.keepalive_grace)
            if now - self.active_at > patience:
                self.transport.close()
        elif late := self.reader.late(now, self.active_at):
            self._refuse(Refusal(408, f"the {late} took too long"))
        if self.blocked_at and now - self.blocked_at > limits.send_timeout:
            self.transport.abort()


class Server:
    """All connections of a worker. Subclassed by the application, which answers requests."""

    draining = False

    def __init__(self, settings: Settings, spool: Path) -> None:
        self.settings, self.spool = settings, spool
        self.loop = asyncio.get_running_loop()
        self.connections: set[Connection] = set()
        self.active = 0
        self._prefix = f"{os.getpid():x}{time.time_ns() // 1_000_000 & 0xFFFFFFFF:x}-"
        self._number = 0

    def next_id(self) -> str:
        """A request id, unique among all processes."""
        self._number += 1
        return f"{self._prefix}{self._number:x}"

    def answer(self, request: Request, reply: Reply) -> Work | None:
        """Calls `reply` once, now or later; what goes on until then, or None. Never raises."""
        raise NotImplementedError

    def refusal(self, refusal: Refusal, request: Request) -> Response:
        """The response for a Refusal."""
        raise NotImplementedError

    def failed(self, request: Request, error: Exception) -> None:
        """A fault of ours: log it."""
        raise NotImplementedError

    def finished(self, request: Request, response: Response, sent: int) -> None:
        """Log and count."""
        raise NotImplementedError

    def connection_closed(self) -> None:
        """A place is free."""
