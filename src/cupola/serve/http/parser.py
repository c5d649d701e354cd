"""Parses the bytes of a connection into requests, with httptools and the limits of the settings."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote

import httptools

from cupola.serve.http.messages import HTTPError, Request
from cupola.serve.settings.settings import Settings

MAX_HEADERS = 200
SLICE = 16 * 1024  # bytes parsed at a time: between slices the connection may stop reading
SPOOL_BATCH = 256 * 1024  # bytes of a large body that are written at a time
_UNIQUE = ("content-length", "inference-header-content-length", "host")
_AUTHORITY = re.compile(  # RFC 3986, 3.2.2, with a name that has no empty part, as nginx asks
    r"(\[[0-9a-fA-F:.]+\]|(?!\.)(?!.*\.\.)[\w.~!$&'()*+,;=%-]+)(:\d{0,5})?", re.ASCII
)
_ABSOLUTE = re.compile("https?://([^/?]*)(.*)", re.IGNORECASE | re.DOTALL)
_BAD_ESCAPE = re.compile("%(?![0-9a-fA-F]{2})|%00")


class RequestParser:
    """Parses one client's bytes.

    Calls `on_request` with each complete request, `on_continue` for `Expect: 100-continue`, and
    `on_large` before it stores a large body. The last two may refuse the request.
    """

    def __init__(
        self,
        settings: Settings,
        spool: Path,
        peer: str,
        next_id: Callable[[], str],
        on_request: Callable[[Request], None],
        on_continue: Callable[[], None],
        on_large: Callable[[], None],
    ) -> None:
        self.settings, self.spool, self.peer = settings, spool, peer
        self._next_id, self._on_request, self._on_continue = next_id, on_request, on_continue
        self._on_large = on_large
        self._parser: Any = httptools.HttpRequestParser(self)
        self.in_header = self.in_body = False
        self.began_at = self._now = 0.0
        self._header_size = 0
        self._valid_host: str | None = None  # of an earlier request
        self._reset()

    def _reset(self) -> None:
        self.url, self.method, self.path, self.query = b"", "", "", ""
        self.headers: dict[str, str] = {}
        self.received = self._fields = self._parsed = 0
        self._body: bytes | bytearray = b""
        self._spool_path: Path | None = None
        self._spool_file: BinaryIO | None = None
        self._upgrade_with_body = False

    @property
    def idle(self) -> bool:
        """Whether no part of a request has arrived."""
        return not self.in_header and not self.in_body

    @property
    def is_head(self) -> bool:
        """Whether the request that arrives, perhaps not completely, is a HEAD."""
        return bool(self.url) and self._parser.get_method() == b"HEAD"

    @property
    def origin(self) -> dict[str, str]:
        """The header Origin of the request that arrives, alone, if it has arrived.

        The others are left out: of an incomplete header, the last X-Forwarded-For may be missing.
        """
        known = bool(self.url) and "origin" in self.headers  # no url: they are of an earlier one
        return {"origin": self.headers["origin"]} if known else {}

    def feed(self, data: bytes | memoryview, now: float) -> None:
        """Parses bytes that arrived at `now`; HTTPError if they are not a valid request."""
        self._now = now
        while data:
            data = self._feed_until_upgrade(data)

    def _feed_until_upgrade(self, data: bytes | memoryview) -> bytes | memoryview:
        """Parses up to the first request that asks for an upgrade; returns what follows it.

        Upgrades are ignored, as HTTP allows: what follows is HTTP/1.1 as well.
        """
        if not self.in_body:
            if not self.in_header:
                self.began_at, self.in_header = self._now, True
            self._header_size += len(data)
        rest: bytes | memoryview = b""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            rest = data[upgrade.args[0] :]
            if self._upgrade_with_body:
                rest = self._head_without_upgrade() + bytes(rest)
        except httptools.HttpParserCallbackError as error:
            raise _refusal_in(error) from None
        except httptools.HttpParserError as error:
            raise HTTPError(400, f"malformed request: {error}") from None
        if self.in_header and self._header_size > self.settings.max_header:
            raise HTTPError(431, f"header over {self.settings.max_header} bytes")
        return rest

    # ---- callbacks of httptools

    def on_message_begin(self) -> None:
        self._reset()
        self.began_at, self.in_header = self._now, True

    def on_url(self, url: bytes) -> None:
        self.url += url
        if len(self.url) > self.settings.max_header:
            raise HTTPError(414, f"request target over {self.settings.max_header} bytes")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._fields += 1
        self._parsed += len(name) + len(value)
        if self._fields > MAX_HEADERS or self._parsed > self.settings.max_header:
            raise HTTPError(431, f"header over {self.settings.max_header} bytes or too many fields")
        if self.in_body:  # a trailer, which must not change what the header said
            return
        key = name.decode("latin-1").lower()
        text = value.decode("latin-1").strip()
        if key in self.headers:
            if key in _UNIQUE:
                raise HTTPError(400, f"header {key} appears twice")
            text = f"{self.headers[key]}, {text}"
        self.headers[key] = text

    def on_headers_complete(self) -> None:
        self.in_header, self.in_body, self._header_size = False, True, 0
        self.method = self._parser.get_method().decode()
        self.version = self._parser.get_http_version()
        if self.version not in ("1.1", "1.0"):
            raise HTTPError(505, f"HTTP/{self.version} is not supported")
        if self.method == "CONNECT":
            raise HTTPError(405, "this is not a proxy", [("Allow", "GET, HEAD, POST")])
        self._check_target()
        self._check_framing()
        if self.version == "1.1" and "expect" in self.headers:
            if self.headers["expect"].lower() != "100-continue":
                raise HTTPError(417, f"unknown expectation {self.headers['expect']!r}")
            self._on_continue()

    def _check_target(self) -> None:
        """The path, the query and the host that are asked for; HTTPError 400 if they are not valid.

        The authority of an absolute target stands in place of the header Host (RFC 9112, 3.2.2).
        """
        authority, self.path, self.query = split_url(self.url)
        if "%" in self.path and _BAD_ESCAPE.search(self.path):
            raise HTTPError(400, "malformed percent-encoding in the path")
        host = self.headers.get("host")
        if host is None and self.version == "1.1":
            raise HTTPError(400, "the header Host is missing")
        if host is not None and host != self._valid_host:
            self._valid_host = _checked(host)
        if authority is not None:
            self.headers["host"] = _checked(authority)

    def _check_framing(self) -> None:
        """How long the body is; HTTPError if that is not certain, or too long."""
        coding = self.headers.get("transfer-encoding")
        length = self.headers.get("content-length")
        if coding is not None:
            if coding.lower() != "chunked":
                raise HTTPError(501, f"Transfer-Encoding {coding!r}: only chunked is supported")
            if length is not None:
                raise HTTPError(400, "both Content-Length and Transfer-Encoding")
            if self.version != "1.1":
                raise HTTPError(400, "Transfer-Encoding in a request of HTTP/1.0")
        elif length is not None:
            if not (length.isascii() and length.isdigit()):
                raise HTTPError(400, f"bad Content-Length {length!r}")
            if int(length) > self.settings.max_body:
                raise HTTPError(413, f"body of {length} bytes, at most {self.settings.max_body}")
        if "upgrade" in self.headers:
            self._upgrade_with_body = coding is not None or int(length or 0) > 0

    def on_body(self, data: bytes) -> None:
        self.received += len(data)
        if self.received > self.settings.max_body:
            raise HTTPError(413, f"body over {self.settings.max_body} bytes")
        if not self._body:
            self._body = data
        else:
            if isinstance(self._body, bytes):
                self._body = bytearray(self._body)
            self._body += data
        is_large = self.received > self.settings.shm_threshold
        if is_large and (self._spool_file is None or len(self._body) >= SPOOL_BATCH):
            self._spool()

    def on_message_complete(self) -> None:
        self.in_body = False
        if self._upgrade_with_body:  # httptools ends it before its body, which is read after all
            return
        if self._spool_file is not None:
            self._spool()
            self._spool_file.close()
        keep_alive = bool(self._parser.should_keep_alive())
        if "connection" in self.headers:  # llhttp overlooks it beside keep-alive in HTTP/1.0
            keep_alive = keep_alive and "close" not in self.headers["connection"].lower()
        request = Request(
            self.method,
            unquote(self.path) if "%" in self.path else self.path,
            self.query,
            self.headers,
            self.headers.get("x-request-id", "")[:128] or self._next_id(),
            self.began_at,
            self.peer,
            self._body,
            self._spool_path,
            keep_alive,
            self.path,
            self.version != "1.1",
        )
        self._spool_path, self._spool_file, self._body = None, None, b""
        self.url = b""
        self._on_request(request)

    def _head_without_upgrade(self) -> bytes:
        """The head for a new parser, which then takes the body for a body."""
        self._parser = httptools.HttpRequestParser(self)
        start = f"{self.method} {self.url.decode('latin-1')} HTTP/{self.version}"
        kept = {k: v for k, v in self.headers.items() if k not in ("upgrade", "expect")}
        lines = [f"{key}: {value}" for key, value in kept.items()]
        return "\r\n".join([start, *lines, "", ""]).encode("latin-1")

    # ---- large bodies

    def _spool(self) -> None:
        """Moves the received part of a large body to shared memory."""
        if self._spool_file is None:
            self._on_large()
        try:
            if self._spool_file is None:
                self._spool_path = self.spool / f"{os.getpid()}-{self._next_id()}"
                descriptor = os.open(self._spool_path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                self._spool_file = os.fdopen(descriptor, "wb", buffering=0)
            view = memoryview(self._body)
            while view:
                view = view[self._spool_file.write(view) :]
        except OSError as error:
            self.discard()
            raise HTTPError(503, f"no space for the body: {error.strerror}") from None
        self._body = b""

    def discard(self) -> None:
        """Removes the spooled part of a request that will not be completed."""
        if self._spool_file is not None:
            self._spool_file.close()
            self._spool_file = None
        if self._spool_path is not None:
            self._spool_path.unlink(missing_ok=True)
            self._spool_path = None

    def close(self) -> None:
        """Forgets everything, once the connection is closed.

        Without the reference cycles to httptools and the connection, all three are freed at once
        instead of with the next garbage collection, which is rare here.
        """
        self.discard()
        self._reset()
        del self._parser, self._on_request, self._on_continue, self._on_large

    # ---- timeouts

    def timed_out(self, now: float, active_at: float) -> str:
        """The part that takes too long: header, body or "". `active_at`: when bytes last came."""
        limits = self.settings
        if self.in_header and now - self.began_at > limits.header_timeout:
            return "header"
        due = limits.body_timeout + self.received / limits.body_rate
        if self.in_body and (now - self.began_at > due or now - active_at > limits.body_timeout):
            return "body"
        return ""


def _refusal_in(error: httptools.HttpParserCallbackError) -> HTTPError:
    """What a callback raised. Not a local variable of the caller, which would be a cycle."""
    cause = error.__context__
    return cause if isinstance(cause, HTTPError) else HTTPError(400, str(cause))


def _checked(host: str) -> str:
    if not _AUTHORITY.fullmatch(host):
        raise HTTPError(400, f"malformed host {host[:200]!r}")
    return host


def split_url(url: bytes) -> tuple[str | None, str, str]:
    """The authority, the path (still percent-encoded) and the query of a request target.

    The authority is None if the target is a path. HTTPError 400 for other forms than these two.
    """
    authority, target = None, url.decode("latin-1")
    if "#" in target:
        target = target.partition("#")[0]
    if not target.startswith("/"):
        absolute = _ABSOLUTE.fullmatch(target)
        if absolute is None:
            raise HTTPError(400, "the request target is neither a path nor an http:// URL")
        authority, target = absolute[1], absolute[2]
    path, _, query = target.partition("?")
    return authority, path or "/", query
