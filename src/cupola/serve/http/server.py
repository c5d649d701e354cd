"""What the connections of a worker share: its settings, its counts, and who answers requests."""

import asyncio
import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from cupola.serve.http.messages import HTTPError, Request, Response
from cupola.serve.settings.settings import Settings


class Work(Protocol):
    """Work in progress for a request, cancelled when its client leaves."""

    def cancel(self) -> object:
        """Stops the work: no client waits for it any more."""


Reply = Callable[[Request, Response], None]


class ClientConnection(Protocol):
    """What a worker needs to know of each connection."""

    closing: bool
    lingering_since: float
    active_at: float

    @property
    def began_at(self) -> float:
        """When what arrives now began."""

    @property
    def idle(self) -> bool:
        """Whether no request is being processed or has partly arrived."""

    @property
    def in_header(self) -> bool:
        """Whether a part of a header has arrived."""

    def drop(self) -> None:
        """Closes a connection that has no request in progress, to make room for another one."""

    def check_timeouts(self, now: float) -> None:
        """Closes the connection if it is too slow or was idle for too long."""


class Server:
    """All connections of a worker. The application subclasses it to answer requests."""

    draining = False

    def __init__(self, settings: Settings, spool: Path) -> None:
        self.settings, self.spool = settings, spool
        self.loop = asyncio.get_running_loop()
        self.connections: set[ClientConnection] = set()
        self.clients: Counter[str] = Counter()  # connections of each address, if limited
        self.active = 0
        self._prefix = f"{os.getpid():x}{time.time_ns() // 1_000_000 & 0xFFFFFFFF:x}-"
        self._number = 0

    def forget(self, client: str) -> None:
        """Counts one connection less of a client whose connections are limited."""
        if client:
            self.clients[client] -= 1
            if self.clients[client] <= 0:
                del self.clients[client]

    def next_id(self) -> str:
        """A request id that is unique among all processes."""
        self._number += 1
        return f"{self._prefix}{self._number:x}"

    def new_spool_path(self) -> Path:
        """A path for a large body. The process id in it tells whose it is."""
        return self.spool / f"{os.getpid()}-{self.next_id()}"

    def check_route(self, method: str, path: str) -> None:
        """HTTPError if no request with this method and percent-encoded path can be answered."""
        raise NotImplementedError

    def check_large_body(self, request: Request) -> None:
        """HTTPError if a request is not to be answered, before its large body is stored."""

    def answer(self, request: Request, reply: Reply) -> Work | None:
        """Calls `reply` once, now or later; returns the work until then, if any. Never raises."""
        raise NotImplementedError

    def refusal(self, error: HTTPError, request: Request) -> Response:
        """The response to a request that cannot be parsed, of which only the start is known."""
        raise NotImplementedError

    def log_failure(self, request: Request, error: Exception) -> None:
        """Logs an unexpected exception."""
        raise NotImplementedError

    def finished(self, request: Request, response: Response, sent: int) -> None:
        """Logs and counts a request."""
        raise NotImplementedError

    def connection_closed(self) -> None:
        """Called after a connection was closed."""
