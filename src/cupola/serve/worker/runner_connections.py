"""A worker's connections to the runners, and the calls that travel on them.

The worker keeps every call until its answer is whole. When a runner dies, its calls go to another
one, or wait for it to be born again; those that were in the batch that died travel alone, and one
that was there twice is refused. A stream whose model can go on from the tokens that were written
does so; of any other, what is told again is skipped.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from cupola.serve.ipc import frames as wire
from cupola.serve.ipc.in_flight import Places
from cupola.serve.ipc.scoreboard import Board

RETRY = 0.02  # seconds between two attempts to connect
FATAL_DEATHS = 2  # runners that a request may be found in when they die


@dataclass(eq=False, slots=True)
class Call:
    """One request to a model. `deliver` takes the answer, or each piece of a stream."""

    frame: wire.Frame
    model: "Model"
    timeout: float
    deliver: Callable[[wire.Frame], None]
    deaths: int = 0
    received: int = 0  # chunks that have arrived; after a death, those to skip
    skip: int = 0
    written: list[int] = field(default_factory=list)  # the tokens among them
    link: "Link | None" = None
    sent: float = 0.0
    ended: bool = False

    @property
    def id(self) -> int:
        """Unique among all workers."""
        return self.frame.id


@dataclass(eq=False)
class Model:
    """One version of one model, as a worker sees it."""

    name: str
    version: str
    about: dict[str, Any]
    places: Places
    links: list["Link"] = field(default_factory=list)
    waiting: deque[Call] = field(default_factory=deque)
    held: int = 0  # calls submitted and not ended, in this worker
    seconds: float = 0.05  # a running mean of how long one takes
    statistics: dict[str, Any] = field(default_factory=dict)

    def hold(self, step: int) -> None:
        """One call more, or one less."""
        self.held += step
        self.places.hold(self.held)

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
        ready = self.ready_links
        if len(ready) == 1:
            ready[0].send(call)
        elif ready:
            min(ready, key=lambda link: len(link.pending)).send(call)
        else:
            self.waiting.append(call)


class Owner(Protocol):
    """Whom a link tells what became of a call."""

    def end(self, call: Call, answer: wire.Frame) -> None:
        """The call's last frame has come."""

    def killed(self, call: Call) -> None:
        """The call was found in too many runners that died."""


class Link:
    """One runner's address; connects, and connects again, for as long as it is on the roster."""

    def __init__(self, path: str, model: Model, owner: Owner, changed: Callable[[], None]) -> None:
        self.path, self.model = path, model
        self.pending: dict[int, Call] = {}
        self.ready = self.retired = False
        self.board: Board | None = None
        self._owner, self._changed = owner, changed
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

    def heard(self, frame: wire.Frame) -> None:
        """A frame from the runner."""
        if frame.kind == wire.MESSAGE:
            self._hello(frame.extra)
            return
        call = self.pending.get(frame.id)
        if call is None:
            _forget_spooled(frame)
        elif frame.kind == wire.CHUNK:
            self._chunk(call, frame)
        else:
            self._answered(call, frame)

    def _hello(self, details: dict[str, Any]) -> None:
        with suppress(OSError):
            self.board = Board(Path(details["board"]))
        self.ready = True
        self._changed()
        self.model.send_waiting()

    def _chunk(self, call: Call, frame: wire.Frame) -> None:
        if call.skip:  # told before the runner died
            call.skip -= 1
            return
        call.received += 1
        call.deaths = 0  # it went past where a runner died: it need not have been the cause
        token = frame.extra["data"].get("token_id")
        if token is not None:
            call.written.append(token)
        if frame.extra["final"]:
            self._end(call, frame)
        else:
            call.deliver(frame)

    def _answered(self, call: Call, frame: wire.Frame) -> None:
        if frame.extra:
            frame.body = wire.collect(frame)
            _forget_spooled(frame)
        taken, batch, run, encode = frame.times
        seconds = time.monotonic() - call.sent
        self.model.seconds += 0.1 * (seconds - self.model.seconds)
        frame.times = (taken - call.sent, batch, run, encode)
        self._end(call, frame)

    def _end(self, call: Call, frame: wire.Frame) -> None:
        del self.pending[call.id]
        self._owner.end(call, frame)
        self._close_if_done()

    def send(self, call: Call) -> None:
        """Gives the call to the runner."""
        assert self._transport is not None
        self.pending[call.id] = call
        call.link, call.sent = self, time.monotonic()
        if call.received and self.model.about.get("resumes"):
            call.frame.extra = {**call.frame.extra, "written": call.written}
        else:
            call.skip = call.received
        if call.deaths:
            call.frame.extra = {**call.frame.extra, "suspect": True}
        self._write(call.frame)

    def _write(self, frame: wire.Frame) -> None:
        assert self._transport is not None
        for piece in wire.pack(frame):
            self._transport.write(piece)

    def cancel(self, call: Call) -> None:
        """Nobody waits for it any more."""
        if self.pending.pop(call.id, None) and self._transport is not None and self.ready:
            self._write(wire.Frame(wire.CANCEL, call.id))
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
                self._owner.killed(call)
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
        for frame in self._unpacker.feed(data):
            self._link.heard(frame)

    def connection_lost(self, exc: Exception | None) -> None:
        self._link.lost()


def _forget_spooled(frame: wire.Frame) -> None:
    if "spool" in frame.extra:
        Path(frame.extra["spool"]).unlink(missing_ok=True)
