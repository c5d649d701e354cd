"""HTTP requests, responses and errors, and the serialization of a response's head."""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import orjson

from cupola.serve.ipc.frames import Body
from cupola.serve.settings.access import ApiKey

REASONS = {
    200: "OK", 204: "No Content", 304: "Not Modified", 400: "Bad Request", 401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found", 405: "Method Not Allowed", 408: "Request Timeout", 411: "Length Required",
    413: "Content Too Large", 414: "URI Too Long", 415: "Unsupported Media Type",
    417: "Expectation Failed", 429: "Too Many Requests", 431: "Request Header Fields Too Large",
    499: "Client Closed Request", 500: "Internal Server Error", 501: "Not Implemented",
    502: "Bad Gateway", 503: "Service Unavailable", 504: "Gateway Timeout",
    505: "HTTP Version Not Supported",
}  # fmt: skip


@dataclass(eq=False, slots=True)
class Request:
    """One request. Header names are lower case. A large body is a file, `spooled`."""

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
    raw_path: str = ""  # the path before percent-decoding, by which it is routed
    old_protocol: bool = False  # HTTP/1.0, whose clients do not know chunks
    operations: bool = True  # it came to an address for operators
    grpc: bool = False  # a call of gRPC: the body of an error is its message alone
    subject: str = ""  # of the client's certificate
    key: ApiKey | None = None  # that it showed
    trace: Any = None  # its span, if it is traced: a RequestTrace
    counted: tuple[str, ...] = ()  # under which names it counts as in progress

    def body_bytes(self) -> bytes:
        """The whole body, from memory or from the spool."""
        return self.spooled.read_bytes() if self.spooled else bytes(self.body)

    def json(self) -> Any:
        """The body as JSON; HTTPError 400 if it is not valid."""
        try:
            return orjson.loads(self.body_bytes())
        except orjson.JSONDecodeError as error:
            raise HTTPError(400, f"request body is not valid JSON: {error}") from None

    def release(self) -> None:
        """Removes the spooled body."""
        if self.spooled is not None:
            with suppress(OSError):
                self.spooled.unlink()
            self.spooled = None


class ResponseStream(Protocol):
    """The writer of a streamed response."""

    async def write(self, data: bytes) -> None:
        """Sends one piece; waits if the client reads too slowly."""


@dataclass(slots=True)
class Response:
    """A complete response; or, with `stream`, a function that writes the body piece by piece."""

    status: int = 200
    body: Body = b""
    headers: list[tuple[str, str]] = field(default_factory=list)
    content_type: str = "application/json"
    stream: Callable[[ResponseStream], Awaitable[None]] | None = None

    @property
    def bodiless(self) -> bool:
        """Whether the status does not allow a body."""
        return self.status in (204, 304)


class HTTPError(Exception):
    """Ends a request with an error status and a message."""

    def __init__(self, status: int, message: str, headers: list[tuple[str, str]] | None = None):
        super().__init__(message)
        self.status, self.message, self.headers = status, message, headers or []


def json_response(value: Any, status: int = 200) -> Response:
    """A response with a JSON body."""
    return Response(status, orjson.dumps(value))


def server_sent_event(value: Any) -> bytes:
    """One event of a text/event-stream, with JSON data."""
    return b"data: " + orjson.dumps(value) + b"\n\n"


def head_of(
    request_id: str, response: Response, *, keep: bool, old_protocol: bool = False
) -> bytes:
    """The status line and the header fields, including the empty line.

    A client of HTTP/1.0 (`ab -k`) keeps the connection only if it is told so, and a stream for it
    ends with the connection instead of chunks.
    """
    head = _start(response.status, response.content_type) + request_id
    if response.stream is not None:
        head += "" if old_protocol else "\r\nTransfer-Encoding: chunked"
    elif not response.bodiless:
        head += f"\r\nContent-Length: {len(response.body)}"
    if not keep:
        head += "\r\nConnection: close"
    elif old_protocol:
        head += "\r\nConnection: keep-alive"
    for name, value in response.headers:
        head += f"\r\n{name}: {value}"
    return (head + "\r\n\r\n").encode("latin-1", "replace")


@lru_cache(256)
def _start(status: int, content_type: str) -> str:
    reason = REASONS.get(status, "Unknown")
    return f"HTTP/1.1 {status} {reason}\r\nContent-Type: {content_type}\r\nX-Request-Id: "
