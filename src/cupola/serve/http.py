"""HTTP/1.1 on httptools: one Connection per client, requests in their order, nothing lost at quit.

A draining worker keeps a connection that was lately in use, answers the request that may already
be on its way, and says `Connection: close` with that answer. Slow, oversized and malformed
requests are refused with their own status and cost nobody else anything.
"""

import asyncio
import os
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import httptools

from cupola.serve import wire
from cupola.serve.settings import Settings

REASONS = {
    200: "OK", 204: "No Content", 304: "Not Modified", 400: "Bad Request", 403: "Forbidden",
    404: "Not Found", 405: "Method Not Allowed", 408: "Request Timeout", 411: "Length Required",
    413: "Content Too Large", 415: "Unsupported Media Type", 417: "Expectation Failed",
    429: "Too Many Requests", 431: "Request Header Fields Too Large",
    499: "Client Closed Request", 500: "Internal Server Error", 501: "Not Implemented",
    502: "Bad Gateway", 503: "Service Unavailable", 504: "Gateway Timeout",
}  # fmt: skip
HEADERS_LIMIT = 200
PIPELINE_LIMIT = 16  # requests that may wait behind the one in work


@dataclass(eq=False)
class Request:
    """One request. Header names are lower case; a spooled body is a path instead of bytes."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    id: str
    arrived: float
    peer: str
    body: bytes | bytearray = b""
    spooled: Path | None = None
    keep_alive: bool = True

    def body_bytes(self) -> bytes:
        """The whole body, wherever it lies."""
        return self.spooled.read_bytes() if self.spooled else bytes(self.body)


@dataclass
class Response:
    """A whole answer; or, with `stream`, a function that writes it piece by piece."""

    status: int = 200
    body: wire.Body = b""
    headers: list[tuple[str, str]] = field(default_factory=list)
    content_type: str = "application/json"
    stream: Callable[["Stream"], Awaitable[None]] | None = None


class Refusal(Exception):  # noqa: N818 (an answer, not a fault of ours)
    """Ends a request with a status and a message."""

    def __init__(self, status: int, message: str, headers: list[tuple[str, str]] | None = None):
        super().__init__(message)
        self.status, self.message, self.headers = status, message, headers or []


class Stream:
    """Chunked writing with back-pressure; a broken stream is never ended as if it were whole."""

    def __init__(self, connection: "Connection") -> None:
        self._connection = connection

    async def write(self, data: bytes) -> None:
        """Sends one chunk, waits while the client is slower than we are."""
        await self._connection.writable.wait()
        self._connection.transport.write(b"%x\r\n%b\r\n" % (len(data), data))


Handler = Callable[[Request], Awaitable[Response]]


@dataclass
class Limits:
    """What a connection may take; from the settings."""

    settings: Settings
    spool: Path


class Connection(asyncio.Protocol):
    """One client. `server` knows all connections, the handler and whether we drain."""

    transport: asyncio.Transport

    def __init__(self, server: "Server") -> None:
        self.server = server
        self.settings = server.settings
        self.parser: Any = httptools.HttpRequestParser(self)
        self.writable = asyncio.Event()
        self.waiting: deque[Request] = deque()
        self.current: Request | None = None
        self.task: asyncio.Task[None] | None = None
        self.served = 0
        self.closing = self.refused = False
        self.peer = ""
        self.active_at = self.began_at = time.monotonic()
        self.blocked_at = 0.0
        self._reset()

    def _reset(self) -> None:
        self.url = b""
        self.headers: dict[str, str] = {}
        self.header_size = self.parsed = self.received = 0
        self.chunks: list[bytes] = []
        self.spool_path: Path | None = None
        self.in_header = self.in_body = False

    # ---- asyncio.Protocol

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.writable.set()
        peer = transport.get_extra_info("peername")
        own = transport.get_extra_info("sockname")
        self.peer = f"{peer[0]}:{peer[1]}" if isinstance(peer, tuple) else f"unix:{own}"
        self.server.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.closing = True
        self.writable.set()
        self.server.connections.discard(self)
        self._drop_spool()
        for request in self.waiting:
            release(request)
        if self.task is not None:
            self.task.cancel()
        self.server.connection_closed()

    def data_received(self, data: bytes) -> None:
        self.active_at = time.monotonic()
        if not self.in_header and not self.in_body:
            self.began_at = self.active_at
            self.in_header = True
        if not self.in_body:
            self.header_size += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserCallbackError as error:
            cause = error.__context__
            self._refuse(cause if isinstance(cause, Refusal) else Refusal(400, str(cause)))
        except httptools.HttpParserError as error:
            self._refuse(Refusal(400, f"malformed request: {error}"))
        if self.in_header and self.header_size > self.settings.max_header:
            self._refuse(Refusal(431, f"header over {self.settings.max_header} bytes"))

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        self.blocked_at = time.monotonic()
        self.writable.clear()

    def resume_writing(self) -> None:
        self.blocked_at = 0.0
        self.writable.set()

    # ---- httptools

    def on_message_begin(self) -> None:
        size, began = self.header_size, self.began_at
        self._reset()
        self.header_size, self.began_at, self.in_header = size, began, True

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        key = name.decode("latin-1").lower()
        text = value.decode("latin-1").strip()
        if key in self.headers:
            if key in ("content-length", "inference-header-content-length", "host"):
                raise Refusal(400, f"header {key} appears twice")
            text = f"{self.headers[key]}, {text}"
        self.headers[key] = text
        self.parsed += len(name) + len(value)
        if len(self.headers) > HEADERS_LIMIT or self.parsed > self.settings.max_header:
            raise Refusal(431, f"header over {self.settings.max_header} bytes or too many fields")

    def on_headers_complete(self) -> None:
        self.in_header, self.in_body = False, True
        self.header_size = 0
        if "upgrade" in self.headers:
            raise Refusal(501, "upgrade is not supported")
        length = self.headers.get("content-length", "0")
        if not (length.isascii() and length.isdigit()):
            raise Refusal(400, f"bad Content-Length {length!r}")
        if int(length) > self.settings.max_body:
            raise Refusal(413, f"body of {length} bytes, at most {self.settings.max_body}")
        if "content-length" in self.headers and "transfer-encoding" in self.headers:
            raise Refusal(400, "both Content-Length and Transfer-Encoding")
        expect = self.headers.get("expect", "").lower()
        if expect == "100-continue" and self.current is None and not self.waiting:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        elif expect and expect != "100-continue":
            raise Refusal(417, f"expectation {expect!r} is not known")

    def on_body(self, data: bytes) -> None:
        self.received += len(data)
        if self.received > self.settings.max_body:
            raise Refusal(413, f"body over {self.settings.max_body} bytes")
        self.chunks.append(data)
        if self.received > self.settings.shm_threshold:
            self._spool()

    def on_message_complete(self) -> None:
        self.in_body = False
        url = httptools.parse_url(self.url)
        request = Request(
            method=self.parser.get_method().decode(),
            path=unquote((url.path or b"/").decode("latin-1")),
            query=(url.query or b"").decode("latin-1"),
            headers=self.headers,
            id=self.headers.get("x-request-id", "")[:128] or self.server.next_id(),
            arrived=self.began_at,
            peer=self.peer,
            body=self.chunks[0] if len(self.chunks) == 1 else b"".join(self.chunks),
            keep_alive=bool(self.parser.should_keep_alive()),
        )
        request.spooled, self.spool_path, self.chunks = self.spool_path, None, []
        if len(self.waiting) >= PIPELINE_LIMIT:
            raise Refusal(400, f"more than {PIPELINE_LIMIT} requests in the pipeline")
        self.waiting.append(request)
        self._next()

    # ---- bodies in the spool

    def _spool(self) -> None:
        """Moves what has arrived of a large body to shared memory."""
        if self.spool_path is None:
            self.spool_path = self.server.spool / f"{os.getpid()}-{self.server.next_id()}"
        try:
            with self.spool_path.open("ab") as file:
                file.writelines(self.chunks)
        except OSError as error:
            raise Refusal(503, f"no room for the body: {error.strerror}") from None
        self.chunks = []

    def _drop_spool(self) -> None:
        if self.spool_path is not None:
            self.spool_path.unlink(missing_ok=True)
            self.spool_path = None

    # ---- answering

    def _next(self) -> None:
        if self.current is None and self.waiting and not self.closing:
            self.current = self.waiting.popleft()
            self.task = self.server.loop.create_task(self._serve(self.current))

    async def _serve(self, request: Request) -> None:
        self.server.active += 1
        response, sent = Response(499), 0
        try:
            response = await self.server.answer(request)
            sent = await self._write(request, response)
        except asyncio.CancelledError:
            response = Response(499)
        finally:
            self.server.active -= 1
            release(request)
            self.current, self.task = None, None
            self.server.finished(request, response, sent)
        self.active_at = time.monotonic()
        if not self.closing and not (self.refused and not self.waiting):
            self._next()

    async def _write(self, request: Request, response: Response) -> int:
        self.served += 1
        keep = (
            request.keep_alive
            and not self.server.draining
            and not self.refused
            and self.served < self.settings.keepalive_requests
        )
        self.closing = not keep
        head = self._head(request, response, keep)
        if response.stream is not None:
            self.transport.write(head)
            try:
                await response.stream(Stream(self))
            except Exception:
                self.transport.abort()  # no last chunk: the client must see that it is cut
                raise
            self.transport.write(b"0\r\n\r\n")
        elif request.method == "HEAD" or response.status in (204, 304):
            self.transport.write(head)
        else:
            self.transport.writelines((head, memoryview(response.body)))
        if not keep:
            self.transport.close()
        return len(response.body)

    def _head(self, request: Request, response: Response, keep: bool) -> bytes:
        lines = [
            f"HTTP/1.1 {response.status} {REASONS.get(response.status, 'Unknown')}",
            f"Content-Type: {response.content_type}",
            f"X-Request-Id: {request.id}",
        ]
        if response.stream is not None:
            lines.append("Transfer-Encoding: chunked")
        elif response.status not in (204, 304):
            lines.append(f"Content-Length: {len(response.body)}")
        if not keep:
            lines.append("Connection: close")
        lines += [f"{name}: {value}" for name, value in response.headers]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")

    def _refuse(self, refusal: Refusal) -> None:
        """A request that cannot be read: its status, then the end of the connection."""
        if self.refused or self.closing:
            return
        self.refused = True
        self._drop_spool()
        request = Request(
            "-", self.url.decode("latin-1")[:200], "", {}, self.server.next_id(), self.began_at,
            self.peer, keep_alive=False,
        )  # fmt: skip
        self.transport.pause_reading()
        response = self.server.refusal(refusal, request)
        if self.current is None:
            head = self._head(request, response, False)
            self.transport.writelines((head, memoryview(response.body)))
            self.closing = True
            self.transport.close()
        else:
            self.transport.abort()
        self.server.finished(request, response, len(response.body))

    # ---- time

    @property
    def idle(self) -> bool:
        """Nothing is in work and nothing of a request has arrived."""
        return self.current is None and not self.waiting and not self.in_header and not self.in_body

    def check_time(self, now: float) -> None:
        """Called about once a second: closes what is too slow or idle for too long."""
        limits = self.settings
        if self.idle:
            patience = limits.keepalive_timeout if self.served else limits.header_timeout
            if self.server.draining:
                patience = min(patience, limits.keepalive_grace)
            if now - self.active_at > patience:
                self.transport.close()
        elif self.in_header and now - self.began_at > limits.header_timeout:
            self._refuse(Refusal(408, "the header took too long"))
        elif self.in_body:
            due = limits.body_timeout + self.received / limits.body_rate
            if now - self.began_at > due or now - self.active_at > limits.body_timeout:
                self._refuse(Refusal(408, "the body took too long"))
        if self.blocked_at and now - self.blocked_at > limits.send_timeout:
            self.transport.abort()


def release(request: Request) -> None:
    """Removes a request's spooled body."""
    if request.spooled is not None:
        with suppress(OSError):
            request.spooled.unlink()
        request.spooled = None


class Server:
    """All connections of a worker. Subclassed by the application, which answers requests."""

    draining = False

    def __init__(self, settings: Settings, spool: Path) -> None:
        self.settings, self.spool = settings, spool
        self.loop = asyncio.get_running_loop()
        self.connections: set[Connection] = set()
        self.active = 0
        self._prefix = f"{os.getpid():x}{time.time_ns() // 1_000_000 & 0xFFFFFFFF:x}"
        self._number = 0

    def next_id(self) -> str:
        """A request id, unique among all processes."""
        self._number += 1
        return f"{self._prefix}-{self._number:x}"

    async def answer(self, request: Request) -> Response:
        """The response to a request; never raises but when cancelled."""
        raise NotImplementedError

    def refusal(self, refusal: Refusal, request: Request) -> Response:
        """The response for a Refusal."""
        raise NotImplementedError

    def finished(self, request: Request, response: Response, sent: int) -> None:
        """Log and count."""
        raise NotImplementedError

    def connection_closed(self) -> None:
        """A place is free."""
