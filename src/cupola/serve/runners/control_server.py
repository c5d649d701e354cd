"""The zygote's socket for workers: they connect, give orders, and are told what is so."""

import selectors
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from cupola.errors import CupolaError
from cupola.serve.ipc import frames as wire

PATIENCE = 1.0  # seconds that a worker may take to read what it is told
Order = dict[str, Any]


class Desk:
    """`greeting` is what a new worker is told; `obey` carries out an order, CupolaError refuses."""

    def __init__(
        self,
        path: Path,
        selector: selectors.BaseSelector,
        greeting: Callable[[], wire.Frame],
        obey: Callable[[socket.socket, Order], None],
    ) -> None:
        self.workers: dict[socket.socket, wire.Unpacker] = {}
        self._selector, self._greeting, self._obey = selector, greeting, obey
        path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(256)
        self._listener.setblocking(False)
        selector.register(self._listener, selectors.EVENT_READ, self._accept)

    def _accept(self, listener: Any) -> None:
        with suppress(OSError):
            worker, _ = listener.accept()
            worker.settimeout(PATIENCE)
            self.workers[worker] = wire.Unpacker()
            self._selector.register(worker, selectors.EVENT_READ, self._read)
            self.tell(worker, self._greeting())

    def _read(self, worker: Any) -> None:
        if worker not in self.workers:  # dismissed since the selector saw it
            return
        try:
            data = worker.recv(1024 * 1024)
        except OSError:
            data = b""
        if not data:
            self._dismiss(worker)
            return
        for frame in self.workers[worker].feed(data):
            order = frame.extra
            try:
                self._obey(worker, order)
            except CupolaError as error:
                self.tell(worker, wire.message("done", id=order["id"], error=str(error)))

    def _dismiss(self, worker: socket.socket) -> None:
        del self.workers[worker]
        self._selector.unregister(worker)
        worker.close()

    def tell(self, worker: socket.socket, frame: wire.Frame) -> None:
        """Sends a frame, unless the worker has left."""
        if worker not in self.workers:
            return
        try:
            worker.sendall(b"".join(wire.pack(frame)))
        except OSError:
            self._dismiss(worker)

    def tell_all(self, frame: wire.Frame) -> None:
        """The same to every worker."""
        for worker in list(self.workers):
            self.tell(worker, frame)

    def close(self) -> None:
        """In a newborn runner, which has no desk."""
        for end in (self._listener, *self.workers):
            end.close()
