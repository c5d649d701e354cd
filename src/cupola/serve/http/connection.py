"""One HTTP/1.1 connection per client: requests in order, and none lost when the worker quits.

A draining worker keeps a connection that was active recently, answers the request that may already
be on its way, and adds `Connection: close` to that answer. Slow, oversized and malformed requests
are refused with their own status and do not affect other clients.
"""

import asyncio
import time
from collections import deque
from typing import Any

from cupola.serve.http.forwarded import name_of
from cupola.serve.http.messages import HTTPError, Request, Response, head_of
from cupola.serve.http.parser import SLICE, RequestParser
from cupola.serve.http.server import Server, Work
from cupola.serve.tls import subject_of

PIPELINE_LIMIT = 16  # requests that may wait behind the current one before reading stops
LINGER_IDLE, LINGER_TOTAL = 5.0, 30.0  # seconds to discard what a refused client still sends
SMALL = 64 * 1024  # bytes; joining a smaller body to its head costs less than a second write


class ChunkedStream:
    """Chunked writing with back-pressure. A stream that fails is cut without its last chunk.

    plain: for a client of HTTP/1.0, which gets no chunks; the end of the connection is the end.
    """

    def __init__(self, connection: "Connection", plain: bool) -> None:
        self._connection, self._plain = connection, plain

    async def write(self, data: bytes) -> None:
        """Sends one chunk; waits if the client reads too slowly."""
        if not data:  # an empty chunk would be the last
            return
        await self._connection.writable.wait()
        plain = self._plain
        self._connection.transport.write(data if plain else b"%x\r\n%b\r\n" % (len(data), data))


class Connection(asyncio.Protocol):
    """One client. `server` keeps all connections, answers requests, and knows about draining.

    `peer` is the client's address if a proxy has named it, and `client` the one whose connections
    are counted, if any. `operations`: whether the endpoints for operators are answered.
    """

    transport: asyncio.Transport
    parser: RequestParser

    def __init__(
        self, server: Server, peer: str = "", client: str = "", operations: bool = True
    ) -> None:
        self.server, self.peer, self.client, self.operations = server, peer, client, operations
        self.subject = ""  # of the client's certificate
        self.writable = asyncio.Event()
        self.waiting: deque[Request] = deque()
        self.current: Request | None = None
        self.work: Work | None = None
        self.served = 0
        self.refusal: tuple[Request, Response] | None = None  # after those that wait
        self.closing = self.paused = self.continue_due = self.turn_due = False
        self.active_at = time.monotonic()
        self.blocked_at = self.lingering_since = 0.0
        self.unparsed = b""  # what was read before reading stopped, at most one read

    # ---- asyncio.Protocol

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.writable.set()
        own = transport.get_extra_info("sockname")
        name = self.peer = self.peer or name_of(transport.get_extra_info("peername"), own)
        self.subject = subject_of(transport)
        server = self.server
        self.parser = RequestParser(
            server.settings, server.spool, name, server.next_id, self._enqueue, self._continue,
            self._check_large,
        )  # fmt: skip
        server.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.closing = True
        self.writable.set()
        self.server.connections.discard(self)
        self.server.forget(self.client)
        self.parser.close()
        for request in self.waiting:
            request.release()
        if self.work is not None:
            self.work.cancel()
        if self.current is not None:
            self._finish(self.current, Response(499), 0)
        self.waiting.clear()
        self.server.connection_closed()

    def data_received(self, data: bytes) -> None:
        self.active_at = time.monotonic()
        if self.lingering_since:
            return
        self.unparsed = self.unparsed + data if self.unparsed else data
        self._parse()
        self._next()

    def _parse(self) -> None:
        """Parses what was read; stops reading while requests or answers pile up."""
        rest = memoryview(self.unparsed)
        while rest and not (self.refusal or self.closing):
            if len(self.waiting) >= PIPELINE_LIMIT or not self.writable.is_set():
                self.unparsed = bytes(rest)
                self._read_on(False)
                return
            part, rest = rest[:SLICE], rest[SLICE:]
            try:
                self.parser.feed(part, self.active_at)
            except HTTPError as error:
                self._refuse(error)
        self.unparsed = b""
        self._read_on(True)

    def _read_on(self, wanted: bool) -> None:
        """Pauses or resumes reading, unless that is so already."""
        if self.paused == wanted:
            self.paused = not wanted
            (self.transport.resume_reading if wanted else self.transport.pause_reading)()

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        self.blocked_at = time.monotonic()
        self.writable.clear()

    def resume_writing(self) -> None:
        self.blocked_at = 0.0
        self.writable.set()
        self._turn()

    # ---- callbacks of the parser

    def _enqueue(self, request: Request) -> None:
        self.continue_due = False
        request.operations, request.subject = self.operations, self.subject
        self.waiting.append(request)

    def _continue(self) -> None:
        self.server.check_route(self.parser.method, self.parser.path)
        self._check_large()
        self.continue_due = True
        self._send_continue()

    def _check_large(self) -> None:
        """HTTPError if the request whose body arrives is not to be answered."""
        parser = self.parser
        request = Request(
            parser.method, parser.path, "", dict(parser.headers), "", parser.began_at,
            self.peer, raw_path=parser.path, operations=self.operations,
        )  # fmt: skip
        self.server.check_large_body(request)

    def _send_continue(self) -> None:
        """Asks for a body that waits for it, once the requests before it are answered."""
        if self.continue_due and self.current is None and not self.waiting:
            self.continue_due = False
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    # ---- answering

    def _turn(self) -> None:
        """Answers the next of several requests, after other connections had their turn."""
        self.turn_due = False
        if self.closing:
            return
        if self.unparsed and len(self.waiting) < PIPELINE_LIMIT:
            self._parse()
        self._next()

    def _next(self) -> None:
        if self.current is not None or not self.waiting or self.closing:
            return
        if not self.writable.is_set():  # the client does not read what it was sent already
            return
        request = self.current = self.waiting.popleft()
        self.work = None
        self.server.active += 1
        work = self.server.answer(request, self._reply)
        if work is not None and self.current is request:
            self.work = work

    def _reply(self, request: Request, response: Response) -> None:
        """Writes the answer to the current request; drops it if the client has left."""
        if self.current is not request:
            return
        self.served += 1
        keep = (
            request.keep_alive
            and not self.server.draining
            and self.served < self.server.settings.keepalive_requests
            and not (response.stream is not None and request.old_protocol)
        )
        self.closing = not keep
        head = head_of(request.id, response, keep=keep, old_protocol=request.old_protocol)
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
            await response.stream(ChunkedStream(self, request.old_protocol))
        except Exception as error:
            self.server.log_failure(request, error)
            self.transport.abort()  # without the last chunk, so the client sees the failure
            return
        if not request.old_protocol:
            self.transport.write(b"0\r\n\r\n")
        self._finish(request, response, 0)

    def _finish(self, request: Request, response: Response, sent: int) -> None:
        """Ends the current request and starts the next one."""
        self.current = self.work = None
        self.active_at = time.monotonic()
        self.server.active -= 1
        request.release()
        self.server.finished(request, response, sent)
        if self.closing:
            self.transport.close()
            return
        if (self.waiting or self.unparsed) and not self.turn_due:
            self.turn_due = True
            self.server.loop.call_soon(self._turn)
        self._send_continue()
        self._send_refusal()

    def _refuse(self, error: HTTPError) -> None:
        """Answers what cannot be parsed with an error, and takes no more requests."""
        if self.refusal is not None or self.closing:
            return
        parser = self.parser
        parser.discard()
        request = Request(
            "-", parser.url.decode("latin-1")[:200], "", parser.origin, self.server.next_id(),
            parser.began_at, parser.peer, keep_alive=False,
        )  # fmt: skip
        self.refusal = (request, self.server.refusal(error, request))
        self._send_refusal()

    def _send_refusal(self) -> None:
        """Answers the refused request once those before it are answered; closes the connection."""
        if self.refusal is None or self.closing or self.current is not None or self.waiting:
            return
        request, response = self.refusal
        body = b"" if self.parser.is_head else response.body
        self._write(head_of(request.id, response, keep=False), body)
        self._linger()
        self.server.finished(request, response, len(body))

    def _linger(self) -> None:
        """Closes the writing side, and reads on for a while what the client still sends.

        If the socket were closed with unread bytes in it, the kernel would reset the connection
        and the client could lose the response.
        """
        self.closing, self.unparsed = True, b""
        self.lingering_since = time.monotonic()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._read_on(True)

    def drop(self) -> None:
        """Closes a connection that has no request in progress, to make room for another one."""
        self.closing, self.lingering_since = True, 0.0
        self.transport.close()

    # ---- timeouts

    @property
    def idle(self) -> bool:
        """Whether no request is being processed or has partly arrived."""
        pending = self.current is not None or self.waiting or self.unparsed
        return not pending and self.parser.idle

    @property
    def in_header(self) -> bool:
        return self.parser.in_header

    @property
    def began_at(self) -> float:
        return self.parser.began_at

    def check_timeouts(self, now: float) -> None:
        """Closes the connection if it is too slow or was idle for too long."""
        limits = self.server.settings
        if self.lingering_since:
            if now - self.active_at > LINGER_IDLE or now - self.lingering_since > LINGER_TOTAL:
                self.transport.abort()
            return
        if self.idle:
            limit = limits.keepalive_timeout if self.served else limits.header_timeout
            if self.server.draining:
                limit = min(limit, limits.keepalive_grace)
            if now - self.active_at > limit:
                self.transport.close()
        elif part := self.parser.timed_out(now, self.active_at):
            self._refuse(HTTPError(408, f"the {part} took too long"))
        if self.blocked_at and now - self.blocked_at > limits.send_timeout:
            self.transport.abort()
