"""A runner's connections from workers: accepts them, reads frames and sends answers.

The frames sent in one turn of the runner's loop leave in one system call per worker.
"""

import select
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from cupola.serve.ipc import frames

READ_SIZE = 256 * 1024
_READ, _WRITE = select.EPOLLIN, select.EPOLLOUT


@dataclass(eq=False)
class WorkerConnection:
    """A worker's connection. `blocked`: the kernel's send buffer is full."""

    socket: socket.socket
    unpacker: frames.Unpacker = field(default_factory=frames.Unpacker)
    outgoing: list[frames.Body] = field(default_factory=list)
    blocked: bool = False


class ConnectionPool:
    """Accepts on `listener`, sends `hello` to each worker; calls `on_disconnect` for those gone.

    `parent_pipe` is the read end of a pipe; `orphaned` becomes true when its other end closes.
    """

    def __init__(
        self,
        listener: socket.socket,
        hello: frames.Frame,
        on_disconnect: Callable[[WorkerConnection], None],
        spool: Path,
        spool_threshold: int,
        parent_pipe: int | None = None,
    ) -> None:
        self.connections: dict[int, WorkerConnection] = {}
        self.orphaned = False
        self._hello, self._on_disconnect = hello, on_disconnect
        self._spool, self._threshold = spool, spool_threshold
        self._unsent: set[WorkerConnection] = set()
        self._buffer = bytearray(READ_SIZE)
        self._view = memoryview(self._buffer)
        self._listener, self._parent_pipe = listener, parent_pipe
        self._poll = select.epoll()
        listener.setblocking(False)
        self._poll.register(listener, _READ)
        if parent_pipe is not None:
            self._poll.register(parent_pipe, _READ)

    def wait(self, timeout: float) -> list[tuple[WorkerConnection, frames.Frame]]:
        """Waits up to `timeout` seconds for frames; returns those that have arrived."""
        found: list[tuple[WorkerConnection, frames.Frame]] = []
        for fd, events in self._poll.poll(timeout):
            if (connection := self.connections.get(fd)) is not None:
                if events & _WRITE:
                    self._flush_connection(connection)
                if events & ~_WRITE:
                    found += self._read(connection)
            elif fd == self._parent_pipe:
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
        connection = self.connections[accepted.fileno()] = WorkerConnection(accepted)
        self._poll.register(accepted, _READ)
        connection.outgoing += frames.pack(self._hello)
        self._flush_connection(connection)

    def _read(self, connection: WorkerConnection) -> list[tuple[WorkerConnection, frames.Frame]]:
        try:
            size = connection.socket.recv_into(self._buffer)
        except BlockingIOError:
            return []
        except OSError:
            size = 0
        if not size:
            self._disconnect(connection)
            return []
        return [(connection, frame) for frame in connection.unpacker.feed(self._view[:size])]

    def _disconnect(self, connection: WorkerConnection) -> None:
        if self.connections.pop(connection.socket.fileno(), None) is None:
            return
        self._poll.unregister(connection.socket)
        connection.socket.close()
        self._unsent.discard(connection)
        self._on_disconnect(connection)

    def send(self, connection: WorkerConnection, frame: frames.Frame) -> None:
        """Queues a frame for the next flush. A large body is written to the spool.

        If there is no space for it, the answer is a failure with status 503.
        """
        if len(frame.body) > self._threshold:
            try:
                frame.extra = {**frame.extra, "spool": frames.spill(frame.body, self._spool)}
                frame.body = b""
            except OSError as error:
                text = f"no space for an answer of {len(frame.body)} bytes in the runtime directory"
                frame = frames.failure(frame.id, 503, f"{text}: {error.strerror}")
        connection.outgoing += frames.pack(frame)
        self._unsent.add(connection)

    def flush(self) -> None:
        """Sends the queued frames."""
        while self._unsent:
            connection = self._unsent.pop()
            if not connection.blocked and connection.socket.fileno() >= 0:
                self._flush_connection(connection)

    def _flush_connection(self, connection: WorkerConnection) -> None:
        data = b"".join(connection.outgoing)
        try:
            sent = connection.socket.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._disconnect(connection)
            return
        connection.outgoing = [data[sent:]] if sent < len(data) else []
        if connection.blocked != bool(connection.outgoing):
            connection.blocked = not connection.blocked
            self._poll.modify(connection.socket, _READ | (_WRITE if connection.blocked else 0))
