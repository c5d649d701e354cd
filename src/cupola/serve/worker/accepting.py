"""Accepts connections for a worker, as many as it may hold; the rest wait in the kernel."""

import asyncio
import socket
import ssl
import time
from collections.abc import Sequence
from contextlib import suppress

from cupola.serve.http.connection import Connection, Server
from cupola.serve.settings.settings import Settings

BURST = 16  # connections taken in one turn, so that other workers get theirs


def tls_context(settings: Settings) -> ssl.SSLContext | None:
    """The server's TLS, or None."""
    if settings.tls_certificate is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(settings.tls_certificate, settings.tls_key)
    context.set_alpn_protocols(["http/1.1"])
    return context


class Acceptor:
    """Watches the listening sockets of one worker."""

    def __init__(self, server: Server, sockets: Sequence[socket.socket]) -> None:
        self.server, self.sockets = server, list(sockets)
        self.tls = tls_context(server.settings)
        self.open = False
        self._under_way: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Begins, or begins again, to accept."""
        if not self.open:
            self.open = True
            for listening in self.sockets:
                self.server.loop.add_reader(listening.fileno(), self._accept, listening)

    def pause(self) -> None:
        """Leaves new connections to others."""
        if self.open:
            self.open = False
            for listening in self.sockets:
                self.server.loop.remove_reader(listening.fileno())

    def close(self) -> None:
        """Stops for good; the sockets live on in the other processes."""
        self.pause()
        for listening in self.sockets:
            listening.close()
        self.sockets = []

    @property
    def busy(self) -> bool:
        """Whether an accepted connection has not become a Connection yet."""
        return bool(self._under_way)

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(BURST):
            try:
                accepted, _ = listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError:  # no descriptors left: look again in a moment
                self.pause()
                self.server.loop.call_later(0.1, self.start)
                return
            accepted.setblocking(False)
            with suppress(OSError):
                accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            task = self.server.loop.create_task(self._adopt(accepted))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)
            self._make_room()

    async def _adopt(self, accepted: socket.socket) -> None:
        try:
            await self.server.loop.connect_accepted_socket(
                lambda: Connection(self.server), accepted, ssl=self.tls
            )
        except (OSError, ssl.SSLError):
            accepted.close()

    def _make_room(self) -> None:
        """At the limit, the connection that has been idle longest makes place."""
        limit = self.server.settings.worker_connections
        if len(self.server.connections) + len(self._under_way) <= limit:
            return
        idle = [one for one in self.server.connections if one.idle]
        if idle:
            min(idle, key=lambda one: one.active_at).transport.close()
            return
        slow = [one for one in self.server.connections if one.reader.in_header]
        if slow:  # half a header and no place left: that is no client that waits for us
            min(slow, key=lambda one: one.reader.began_at).transport.abort()
            return
        self.pause()
        self.server.loop.call_later(0.05, self.start)


def watch_time(server: Server, interval: float) -> None:
    """Looks after slow and idle connections, again and again."""
    now = time.monotonic()
    for connection in list(server.connections):
        connection.check_time(now)
    server.loop.call_later(interval, watch_time, server, interval)
