"""The zygote's socket for workers, which receive the roster and send requests."""

import errno
import selectors
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

from cupola.errors import CupolaError
from cupola.serve.ipc import frames
from cupola.serve.ipc.listeners import private_listener

ACCEPT_PAUSE = 0.05  # seconds to wait while the process has no free descriptor
SEND_TIMEOUT = 1.0  # seconds after which a worker that does not read is disconnected
ControlRequest: TypeAlias = dict[str, Any]


class ControlServer:
    """Sends `greeting()` to each new worker; calls `handle` with requests.

    An error raised by `handle` is sent back as the answer. A worker that sends anything but
    requests is disconnected.
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
        self._listener = private_listener(path)
        self._listener.setblocking(False)
        selector.register(self._listener, selectors.EVENT_READ, self._accept)

    def _accept(self, listener: Any) -> None:
        try:
            worker, _ = listener.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):  # the listener stays readable
                time.sleep(ACCEPT_PAUSE)
            return
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
        try:
            requests = [frame.extra for frame in self.workers[worker].feed(data)]
            for request in requests:
                self._answer(worker, request["id"], request)
        except Exception:  # not a frame, or not a request
            self._disconnect(worker)

    def _answer(self, worker: socket.socket, request_id: int, request: ControlRequest) -> None:
        try:
            self._handle(worker, request)
        except Exception as error:
            text = str(error) if isinstance(error, CupolaError) else repr(error)
            self.send(worker, frames.control("done", id=request_id, error=text))

    def _disconnect(self, worker: socket.socket) -> None:
        if self.workers.pop(worker, None) is None:
            return
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
