"""Accepts connections for a worker, up to its limit; the rest wait in the kernel."""

import asyncio
import socket
import ssl
import time
from collections.abc import Sequence
from contextlib import suppress

from cupola.serve.http.connection import Connection, Server
from cupola.serve.settings.settings import Settings

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
            self._enforce_limit()

    async def _connect(self, accepted: socket.socket) -> None:
        try:
            await self.server.loop.connect_accepted_socket(
                lambda: Connection(self.server), accepted, ssl=self.tls
            )
        except (OSError, ssl.SSLError):
            accepted.close()

    def _enforce_limit(self) -> None:
        """At the limit, closes the longest idle connection, or pauses accepting."""
        limit = self.server.settings.worker_connections
        if len(self.server.connections) + len(self._handshakes) <= limit:
            return
        idle = [one for one in self.server.connections if one.idle]
        if idle:
            min(idle, key=lambda one: one.active_at).transport.close()
            return
        slow = [one for one in self.server.connections if one.parser.in_header]
        if slow:  # an incomplete header while others wait: probably not an honest client
            min(slow, key=lambda one: one.parser.began_at).transport.abort()
            return
        self.pause()
        self.server.loop.call_later(0.05, self.start)


def watch_timeouts(server: Server, interval: float) -> None:
    """Checks the timeouts of all connections every `interval` seconds."""
    now = time.monotonic()
    for connection in list(server.connections):
        connection.check_timeouts(now)
    server.loop.call_later(interval, watch_timeouts, server, interval)
