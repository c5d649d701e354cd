"""Accepts connections for a worker, up to its limit; the rest wait in the kernel."""

import asyncio
import resource
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from heapq import nsmallest
from operator import attrgetter
from typing import TYPE_CHECKING

from cupola.serve.http.connection import Connection
from cupola.serve.http.forwarded import TrustedProxies, name_of
from cupola.serve.http.proxy_protocol import read_header
from cupola.serve.http.server import ClientConnection, Server
from cupola.serve.ipc.listeners import Listener
from cupola.serve.settings.settings import Settings
from cupola.serve.worker.app import Application

if TYPE_CHECKING:
    from cupola.serve.grpc.service import GrpcService

OTHER_FILES = 64  # open files of a worker besides its clients: listeners, runners, logs, bodies
HANDSHAKE_TIME = 1.0  # seconds that a client has for TLS or the PROXY protocol if others wait
DROPPED = 32  # connections closed at a time to make room for others
BURST = 16  # connections accepted at a time, so that other workers get their share


class Acceptor:
    """Accepts on the listening sockets of one worker."""

    def __init__(
        self,
        server: Application,
        sockets: Mapping[socket.socket, Listener],
        proxies: TrustedProxies,
    ) -> None:
        self.server, self.sockets, self.proxies = server, dict(sockets), proxies
        self.tls = server.generation.tls
        self.grpc: GrpcService | None = None
        if any(listener.grpc for listener in sockets.values()):
            from cupola.serve.grpc.service import GrpcService as Service  # of an extra

            self.grpc = Service(server, server, server.router.methods)
        self.accepting = False
        self.limit = connection_limit(server.settings)
        self._handshakes: dict[asyncio.Task[None], float] = {}  # and when they began

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
        self.sockets = {}

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
            listener = self.sockets[listening]
            task = self.server.loop.create_task(self._connect(accepted, listener))
            self._handshakes[task] = time.monotonic()
            task.add_done_callback(lambda done: self._handshakes.pop(done, None))

    async def _connect(self, accepted: socket.socket, listener: Listener) -> None:
        server, timeout = self.server, self.server.settings.header_timeout
        client = ""
        try:
            peer = ""
            if listener.proxied:
                peer = await asyncio.wait_for(self._proxied_peer(accepted), timeout)
            client = self._count(peer, accepted)
            await server.loop.connect_accepted_socket(
                self._protocol(listener, peer, client),
                accepted,
                ssl=self.tls.get(listener.grpc),
                ssl_handshake_timeout=timeout if self.tls else None,
            )
        except (OSError, asyncio.CancelledError):  # of TLS, too, and time limits
            server.forget(client)  # the connection was not made, so it does not do this
            accepted.close()

    def _protocol(
        self, listener: Listener, peer: str, client: str
    ) -> Callable[[], asyncio.Protocol]:
        """Makes the protocol of a connection."""
        server, operations = self.server, listener.operations
        if not listener.grpc:
            return lambda: Connection(server, peer, client, operations)
        from cupola.serve.http2.connection import Http2Connection

        assert self.grpc is not None
        opened = self.grpc.open
        return lambda: Http2Connection(server, opened, peer, client, operations)

    async def _proxied_peer(self, accepted: socket.socket) -> str:
        """The client's address from the PROXY protocol, "" unless a trusted proxy names it."""
        proxy = name_of(accepted.getpeername(), accepted.getsockname())
        try:
            client = await read_header(accepted)
        except ValueError as error:
            raise ConnectionAbortedError(f"PROXY protocol: {error}") from None
        return client if self.proxies.trusts(proxy) else ""

    def _count(self, peer: str, accepted: socket.socket) -> str:
        """Counts one more connection of this client; "" if the client is not limited.

        ConnectionAbortedError if it has `client_connections` already.
        """
        limit = self.server.settings.client_connections
        if limit is None:
            return ""
        peer = peer or name_of(accepted.getpeername(), accepted.getsockname())
        if peer.startswith("unix:") or self.proxies.trusts(peer):
            return ""
        client = peer.rpartition(":")[0]
        if self.server.clients[client] >= limit:
            raise ConnectionAbortedError(f"{client} has {limit} connections")
        self.server.clients[client] += 1
        return client

    def _make_room(self) -> bool:
        """Whether one more connection may be held; at the limit, some that are not busy are closed.

        Those whose client was refused go first, then the longest idle ones, as nginx reuses them;
        then those whose header has been incomplete for longest, probably no honest clients'.
        """
        if len(self.server.connections) + len(self._handshakes) < self.limit:
            return True
        held = [one for one in self.server.connections if not one.closing or one.lingering_since]
        if len(held) + len(self._handshakes) < self.limit:
            return True
        if (
            _drop_oldest((one for one in held if one.lingering_since), _lingering_since)
            or _drop_oldest((one for one in held if one.idle), _active_at)
            or _drop_oldest((one for one in held if one.in_header), _began_at)
        ):
            return True
        oldest = next(iter(self._handshakes), None)
        if oldest is not None and time.monotonic() - self._handshakes[oldest] > HANDSHAKE_TIME:
            oldest.cancel()
        return False


_lingering_since, _active_at, _began_at = map(
    attrgetter, ("lingering_since", "active_at", "began_at")
)


def _drop_oldest(
    candidates: Iterable[ClientConnection], since: Callable[[ClientConnection], float]
) -> bool:
    """Closes an eighth of these, at most DROPPED: to find them takes a while. False if none."""
    found = list(candidates)
    for one in nsmallest(min(DROPPED, len(found) // 8 + 1), found, since) if found else ():
        one.drop()
    return bool(found)


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
