"""A worker's connections to the runners, and the calls that travel on them.

The worker keeps every call until its answer is whole. When a runner dies, its calls go to another
one, or wait for it to be born again; those that were in the batch that died travel alone, and one
that was there twice is refused.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cupola.serve import wire
from cupola.serve.board import Board

RETRY = 0.02  # seconds between two attempts to connect
FATAL_DEATHS = 2  # runners that a request may be found in when they die


@dataclass(eq=False)
class Call:
    """One request to a model. `answer` resolves to (header, body); streams fill `chunks`."""

    id: str
    header: dict[str, Any]
    body: wire.Body
    deadline: float
    answer: asyncio.Future[tuple[dict[str, Any], wire.Body]]
    chunks: asyncio.Queue[dict[str, Any]] | None = None
    deaths: int = 0
    received: int = 0  # chunks that have arrived; after a death, those to skip
    skip: int = 0
    link: "Link | None" = None
    sent: float = 0.0


@dataclass(eq=False)
class Model:
    """One version of one model, as a worker sees it."""

    name: str
    version: str
    about: dict[str, Any]
    links: list["Link"] = field(default_factory=list)
    waiting: deque[Call] = field(default_factory=deque)
    held: int = 0  # calls submitted and not finished
    seconds: float = 0.05  # a running mean of how long one takes
    statistics: dict[str, Any] = field(default_factory=dict)

    @property
    def ready_links(self) -> list["Link"]:
        """Links whose runner has said hello and turns its loop."""
        return [link for link in self.links if link.ready and not link.retired]

    def send_waiting(self) -> None:
        """A runner is ready: it gets what has waited for one."""
        while self.waiting and self.ready_links:
            self.place(self.waiting.popleft())

    def place(self, call: Call) -> None:
        """To the least loaded runner, or into the queue while there is none."""
        if call.answer.done():
            return
        ready = self.ready_links
        if ready:
            min(ready, key=lambda link: len(link.pending)).send(call)
        else:
            self.waiting.append(call)


class Link:
    """One runner's address; connects, and connects again, for as long as it is on the roster."""

    def __init__(
        self, path: str, model: Model, changed: Callable[[], None], killed: Callable[[Call], None]
    ) -> None:
        self.path, self.model = path, model
        self.pending: dict[str, Call] = {}
        self.ready = self.retired = False
        self.board: Board | None = None
        self._changed, self._killed = changed, killed
        self._transport: asyncio.Transport | None = None
        self._connecting = asyncio.get_running_loop().create_task(self._connect())

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        while not self.retired:
            try:
                await loop.create_unix_connection(lambda: _LinkProtocol(self), self.path)
                return
            except OSError:
                await asyncio.sleep(RETRY)

    def connected(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        transport.set_write_buffer_limits(high=1 << 30)  # the queue limit bounds it

    def heard(self, header: dict[str, Any], body: bytes) -> None:
        """A frame from the runner."""
        if header["op"] == "hello":
            with suppress(OSError):
                self.board = Board(Path(header["board"]))
            self.ready = True
            self._changed()
            self.model.send_waiting()
            return
        call = self.pending.get(header["id"])
        if call is None:
            _forget_spooled(header)
        elif header["op"] == "chunk":
            self._chunk(call, header)
        else:
            self._answered(call, header, body)

    def _chunk(self, call: Call, header: dict[str, Any]) -> None:
        if header["final"]:
            self.pending.pop(call.id, None)
        if call.skip:  # told before the runner died
            call.skip -= 1
            return
        call.received += 1
        if call.chunks is not None:
            call.chunks.put_nowait(header)

    def _answered(self, call: Call, header: dict[str, Any], body: wire.Body) -> None:
        self.pending.pop(call.id, None)
        whole = wire.collect(header, body)
        _forget_spooled(header)
        if call.chunks is not None:
            call.chunks.put_nowait(header)
        if not call.answer.done():
            call.answer.set_result((header, whole))
        self._close_if_done()

    def send(self, call: Call) -> None:
        """Gives the call to the runner."""
        assert self._transport is not None
        self.pending[call.id] = call
        call.link, call.sent = self, time.monotonic()
        call.skip = call.received
        if call.deaths:
            call.header["suspect"] = True
        self._transport.writelines(wire.pack(call.header, call.body))

    def cancel(self, call: Call) -> None:
        """Nobody waits for it any more."""
        if self.pending.pop(call.id, None) and self._transport is not None and self.ready:
            self._transport.writelines(wire.pack({"op": "cancel", "id": call.id}))
        self._close_if_done()

    def lost(self) -> None:
        """The runner is gone: its calls are placed anew, the guilty ones counted."""
        suspects = self.board.suspects if self.board else set()
        if self.board:
            self.board.close()
        self.board, self.ready, self._transport = None, False, None
        self._changed()
        orphans, self.pending = list(self.pending.values()), {}
        if not self.retired:
            self._connecting = asyncio.get_running_loop().create_task(self._connect())
        for call in orphans:
            call.link = None
            call.deaths += call.id in suspects
            if call.deaths >= FATAL_DEATHS:
                self._killed(call)
            else:
                self.model.place(call)

    def retire(self) -> None:
        """Off the roster: no new calls, and closed once the last answer has come."""
        self.retired = True
        self._close_if_done()

    def _close_if_done(self) -> None:
        if self.retired and not self.pending and self._transport is not None:
            self._transport.close()

    def close(self) -> None:
        """The worker goes."""
        self.retired = True
        self._connecting.cancel()
        if self._transport is not None:
            self._transport.close()


class _LinkProtocol(asyncio.Protocol):
    def __init__(self, link: Link) -> None:
        self._link, self._unpacker = link, wire.Unpacker()

    def connection_made(self, transport: Any) -> None:
        self._link.connected(transport)

    def data_received(self, data: bytes) -> None:
        for header, body in self._unpacker.feed(data):
            self._link.heard(header, body)

    def connection_lost(self, exc: Exception | None) -> None:
        self._link.lost()


def _forget_spooled(header: dict[str, Any]) -> None:
    if "spool" in header:
        Path(header["spool"]).unlink(missing_ok=True)
