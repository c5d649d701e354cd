"""A runner's sockets: workers connect, their frames are read, answers are sent.

Frames that go out in one turn of the loop leave in one system call for each worker.
"""

import select
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from cupola.serve.ipc import frames as wire

READ_SIZE = 256 * 1024
_READ, _WRITE = select.EPOLLIN, select.EPOLLOUT


@dataclass(eq=False)
class Connection:
    """A worker's connection. `blocked`: the kernel takes no more for now."""

    socket: socket.socket
    unpacker: wire.Unpacker = field(default_factory=wire.Unpacker)
    outgoing: list[wire.Body] = field(default_factory=list)
    blocked: bool = False


class Hub:
    """Accepts on `listener`; each new worker gets `hello`; `dropped` learns of those that left.

    `life` is the read end of a pipe; when its other end closes, the hub is `orphaned`.
    """

    def __init__(
        self,
        listener: socket.socket,
        hello: wire.Frame,
        dropped: Callable[[Connection], None],
        spool: Path,
        spool_threshold: int,
        life: int | None = None,
    ) -> None:
        self.connections: dict[int, Connection] = {}
        self.orphaned = False
        self._hello, self._dropped = hello, dropped
        self._spool, self._threshold = spool, spool_threshold
        self._speaking: set[Connection] = set()
        self._buffer = bytearray(READ_SIZE)
        self._view = memoryview(self._buffer)
        self._listener, self._life = listener, life
        self._poll = select.epoll()
        listener.setblocking(False)
        self._poll.register(listener, _READ)
        if life is not None:
            self._poll.register(life, _READ)

    def wait(self, timeout: float) -> list[tuple[Connection, wire.Frame]]:
        """The frames that arrive within `timeout` seconds, as soon as there are any."""
        found: list[tuple[Connection, wire.Frame]] = []
        for fd, events in self._poll.poll(timeout):
            if (connection := self.connections.get(fd)) is not None:
                if events & _WRITE:
                    self._send(connection)
                if events & ~_WRITE:
                    found += self._read(connection)
            elif fd == self._life:
                self._poll.unregister(fd)
                self.orphaned = True
            else:
                self._accept()
        return found

    def _accept(self) -> None:
        try:
            accepted, _ = self._listener.accept()
        except OSError:
            return
        accepted.setblocking(False)
        connection = self.connections[accepted.fileno()] = Connection(accepted)
        self._poll.register(accepted, _READ)
        connection.outgoing += wire.pack(self._hello)
        self._send(connection)

    def _read(self, connection: Connection) -> list[tuple[Connection, wire.Frame]]:
        try:
            size = connection.socket.recv_into(self._buffer)
        except BlockingIOError:
            return []
        except OSError:
            size = 0
        if not size:
            self._drop(connection)
            return []
        return [(connection, frame) for frame in connection.unpacker.feed(self._view[:size])]

    def _drop(self, connection: Connection) -> None:
        """The worker is gone, and with it everyone who waited there."""
        if self.connections.pop(connection.socket.fileno(), None) is None:
            return
        self._poll.unregister(connection.socket)
        connection.socket.close()
        self._speaking.discard(connection)
        self._dropped(connection)

    def tell(self, connection: Connection, frame: wire.Frame) -> None:
        """Sends a frame with the next flush; a large body goes through the spool."""
        if len(frame.body) > self._threshold:
            frame.extra = {**frame.extra, "spool": wire.spill(frame.body, self._spool)}
            frame.body = b""
        connection.outgoing += wire.pack(frame)
        self._speaking.add(connection)

    def flush(self) -> None:
        """Sends what was told since the last time."""
        while self._speaking:
            connection = self._speaking.pop()
            if not connection.blocked and connection.socket.fileno() >= 0:
                self._send(connection)

    def _send(self, connection: Connection) -> None:
        data = b"".join(connection.outgoing)
        try:
            sent = connection.socket.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._drop(connection)
            return
        connection.outgoing = [data[sent:]] if sent < len(data) else []
        if connection.blocked != bool(connection.outgoing):
            connection.blocked = not connection.blocked
            self._poll.modify(connection.socket, _READ | (_WRITE if connection.blocked else 0))
