"""The zygote's socket for workers, which receive the roster and send requests."""

import selectors
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias

from cupola.errors import CupolaError
from cupola.serve.ipc import frames

SEND_TIMEOUT = 1.0  # seconds after which a worker that does not read is disconnected
ControlRequest: TypeAlias = dict[str, Any]


class ControlServer:
    """Sends `greeting()` to each new worker; calls `handle` with requests.

    A CupolaError raised by `handle` is sent back as the answer.
    """

    def __init__(
        self,
        path: Path,
        selector: selectors.BaseSelector,
        greeting: Callable[[], frames.Frame],
        handle: Callable[[socket.socket, ControlRequest], None],
    ) -> None:
        self.workers: dict[socket.socket, frames.Unpacker] = {}
        self._selector, self._greeting, self._handle = selector, greeting, handle
        path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(256)
        self._listener.setblocking(False)
        selector.register(self._listener, selectors.EVENT_READ, self._accept)

    def _accept(self, listener: Any) -> None:
        with suppress(OSError):
            worker, _ = listener.accept()
            worker.settimeout(SEND_TIMEOUT)
            self.workers[worker] = frames.Unpacker()
            self._selector.register(worker, selectors.EVENT_READ, self._read)
            self.send(worker, self._greeting())

    def _read(self, worker: Any) -> None:
        if worker not in self.workers:  # disconnected since the selector returned
            return
        try:
            data = worker.recv(1024 * 1024)
        except OSError:
            data = b""
        if not data:
            self._disconnect(worker)
            return
        for frame in self.workers[worker].feed(data):
            request = frame.extra
            try:
                self._handle(worker, request)
            except CupolaError as error:
                self.send(worker, frames.control("done", id=request["id"], error=str(error)))

    def _disconnect(self, worker: socket.socket) -> None:
        del self.workers[worker]
        self._selector.unregister(worker)
        worker.close()

    def send(self, worker: socket.socket, frame: frames.Frame) -> None:
        """Sends a frame, unless the worker has left."""
        if worker not in self.workers:
            return
        try:
            worker.sendall(b"".join(frames.pack(frame)))
        except OSError:
            self._disconnect(worker)

    def broadcast(self, frame: frames.Frame) -> None:
        """Sends a frame to all workers."""
        for worker in list(self.workers):
            self.send(worker, frame)

    def close(self) -> None:
        """Closes all sockets, in a forked runner."""
        for end in (self._listener, *self.workers):
            end.close()
