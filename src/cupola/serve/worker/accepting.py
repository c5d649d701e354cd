"""Accepts connections for a worker, up to its limit; the rest wait in the kernel."""

import asyncio
import resource
import socket
import ssl
import time
from collections.abc import Sequence
from contextlib import suppress

from cupola.serve.http.connection import Connection, Server
from cupola.serve.settings.settings import Settings

OTHER_FILES = 64  # open files of a worker besides its clients: listeners, runners, logs, bodies
BURST = 16  # connections accepted at a time, so that other workers get their share


def tls_context(settings: Settings) -> ssl.SSLContext | None:
    """The TLS settings of the server, or None."""
    if settings.tls_certificate is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(settings.tls_certificate, settings.tls_key)
    context.set_alpn_protocols(["http/1.1"])
    return context


class Acceptor:
    """Accepts on the listening sockets of one worker."""

    def __init__(self, server: Server, sockets: Sequence[socket.socket]) -> None:
        self.server, self.sockets = server, list(sockets)
        self.tls = tls_context(server.settings)
        self.accepting = False
        self.limit = connection_limit(server.settings)
        self._handshakes: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Starts or resumes accepting."""
        if not self.accepting:
            self.accepting = True
            for listening in self.sockets:
                self.server.loop.add_reader(listening.fileno(), self._accept, listening)

    def pause(self) -> None:
        """Leaves new connections to other workers."""
        if self.accepting:
            self.accepting = False
            for listening in self.sockets:
                self.server.loop.remove_reader(listening.fileno())

    def close(self) -> None:
        """Stops for good. The sockets stay open in other processes."""
        self.pause()
        for listening in self.sockets:
            listening.close()
        self.sockets = []

    @property
    def busy(self) -> bool:
        """Whether an accepted socket is not yet a Connection."""
        return bool(self._handshakes)

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(BURST):
            if not self._make_room():
                self.pause()
                self.server.loop.call_later(0.05, self.start)
                return
            try:
                accepted, _ = listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError:  # out of file descriptors: try again later
                self.pause()
                self.server.loop.call_later(0.1, self.start)
                return
            accepted.setblocking(False)
            with suppress(OSError):
                accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            task = self.server.loop.create_task(self._connect(accepted))
            self._handshakes.add(task)
            task.add_done_callback(self._handshakes.discard)

    async def _connect(self, accepted: socket.socket) -> None:
        try:
            await self.server.loop.connect_accepted_socket(
                lambda: Connection(self.server), accepted, ssl=self.tls
            )
        except (OSError, ssl.SSLError):
            accepted.close()

    def _make_room(self) -> bool:
        """Whether one more connection may be held; at the limit, one that is not busy is closed.

        One whose client was refused goes first, then the longest idle one, as nginx reuses them;
        then the one whose header has been incomplete for longest, probably no honest client's.
        """
        if len(self.server.connections) + len(self._handshakes) < self.limit:
            return True
        held = [one for one in self.server.connections if not one.closing or one.lingering_since]
        if len(held) + len(self._handshakes) < self.limit:
            return True
        if refused := [one for one in held if one.lingering_since]:
            min(refused, key=lambda one: one.lingering_since).drop()
            return True
        if idle := [one for one in held if one.idle]:
            min(idle, key=lambda one: one.active_at).drop()
            return True
        if slow := [one for one in held if one.parser.in_header]:
            min(slow, key=lambda one: one.parser.began_at).drop()
            return True
        return False


def connection_limit(settings: Settings) -> int:
    """`worker_connections`, lowered to what the limit of open files leaves for clients."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return min(settings.worker_connections, max(1, files - OTHER_FILES))


def watch_timeouts(server: Server, interval: float) -> None:
    """Checks the timeouts of all connections every `interval` seconds."""
    now = time.monotonic()
    for connection in list(server.connections):
        connection.check_timeouts(now)
    server.loop.call_later(interval, watch_timeouts, server, interval)
