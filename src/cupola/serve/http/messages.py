"""Requests, responses and refusals, and how a response's head is written."""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Protocol

from cupola.serve.ipc import frames as wire

REASONS = {
    200: "OK", 204: "No Content", 304: "Not Modified", 400: "Bad Request", 403: "Forbidden",
    404: "Not Found", 405: "Method Not Allowed", 408: "Request Timeout", 411: "Length Required",
    413: "Content Too Large", 415: "Unsupported Media Type", 417: "Expectation Failed",
    429: "Too Many Requests", 431: "Request Header Fields Too Large",
    499: "Client Closed Request", 500: "Internal Server Error", 501: "Not Implemented",
    502: "Bad Gateway", 503: "Service Unavailable", 504: "Gateway Timeout",
}  # fmt: skip


@dataclass(eq=False, slots=True)
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

    def release(self) -> None:
        """Removes the spooled body."""
        if self.spooled is not None:
            with suppress(OSError):
                self.spooled.unlink()
            self.spooled = None


class Sink(Protocol):
    """Where a streamed response is written."""

    async def write(self, data: bytes) -> None:
        """Sends one piece; waits while the client is slower than we are."""


@dataclass(slots=True)
class Response:
    """A whole answer; or, with `stream`, a function that writes it piece by piece."""

    status: int = 200
    body: wire.Body = b""
    headers: list[tuple[str, str]] = field(default_factory=list)
    content_type: str = "application/json"
    stream: Callable[[Sink], Awaitable[None]] | None = None

    @property
    def bodiless(self) -> bool:
        """Whether the status forbids a body."""
        return self.status in (204, 304)


class Refusal(Exception):  # noqa: N818 (an answer, not a fault of ours)
    """Ends a request with a status and a message."""

    def __init__(self, status: int, message: str, headers: list[tuple[str, str]] | None = None):
        super().__init__(message)
        self.status, self.message, self.headers = status, message, headers or []


def head_of(request_id: str, response: Response, *, keep: bool) -> bytes:
    """Status line and header fields, to the empty line."""
    head = _start(response.status, response.content_type) + request_id
    if response.stream is not None:
        head += "\r\nTransfer-Encoding: chunked"
    elif not response.bodiless:
        head += f"\r\nContent-Length: {len(response.body)}"
    if not keep:
        head += "\r\nConnection: close"
    for name, value in response.headers:
        head += f"\r\n{name}: {value}"
    return (head + "\r\n\r\n").encode("latin-1", "replace")


@lru_cache(256)
def _start(status: int, content_type: str) -> str:
    reason = REASONS.get(status, "Unknown")
    return f"HTTP/1.1 {status} {reason}\r\nContent-Type: {content_type}\r\nX-Request-Id: "
