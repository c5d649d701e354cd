"""A worker's connections to the runners, and the calls that use them.

The worker keeps every call until its answer is complete. If a runner dies, its calls are sent to
another one or wait for the respawn. Calls from the batch that crashed are then run alone, and a
call that was in two such batches is rejected. A stream continues from the tokens already written if
the model can resume; otherwise it is computed again and the chunks already delivered are skipped.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any, Protocol

from cupola.serve.ipc import frames
from cupola.serve.ipc.in_flight import InFlightCounter
from cupola.serve.ipc.scoreboard import Scoreboard

RETRY = 0.02  # seconds between two attempts to connect
MISSED_DEADLINES = 2  # in a row, after which a runner that does not answer gets no calls
SMALL = 256 * 1024  # bytes; joining fewer of them costs less than writing them one by one
MAX_CRASHES = 2  # crashes of runners that processed a call, after which it is rejected


@dataclass(eq=False, slots=True)
class Call:
    """One request to a model. `deliver` takes the answer, or each chunk of a stream."""

    frame: frames.Frame
    model: "Model"
    timeout: float
    deliver: Callable[[frames.Frame], None]
    cost: int = 1  # what it counts for the queue limit
    crashes: int = 0
    received: int = 0  # chunks received; after a crash, the number to skip
    skip: int = 0
    written: list[int] = field(default_factory=list)  # the tokens of these chunks
    connection: "RunnerConnection | None" = None
    sent: float = 0.0
    ended: bool = False

    @property
    def id(self) -> int:
        """Unique among all workers."""
        return self.frame.id


@dataclass(eq=False)
class Model:
    """One version of one model, as a worker sees it. `description` is its roster entry."""

    name: str
    version: str
    description: dict[str, Any]
    in_flight: InFlightCounter
    connections: list["RunnerConnection"] = field(default_factory=list)
    waiting: deque[Call] = field(default_factory=deque)
    held: int = 0  # the cost of this worker's calls that have not ended
    mean_seconds: float = 0.05  # running mean of a call's duration

    def hold(self, step: int) -> None:
        """Counts the cost of a call that begins, or of one that ends as a negative step."""
        self.held += step
        self.in_flight.set(self.held)

    @property
    def ready_connections(self) -> list["RunnerConnection"]:
        """Connections to runners that accept calls."""
        return [one for one in self.connections if one.ready and not one.retired]

    def send_waiting(self) -> None:
        """Sends the waiting calls once a runner is ready; those of others' sequences wait on."""
        for _ in range(len(self.waiting)):
            if not self.ready_connections:
                return
            self.dispatch(self.waiting.popleft())

    def dispatch(self, call: Call) -> None:
        """Sends the call to the least loaded runner, or queues it if there is none.

        A runner that let several deadlines pass gets no more calls until it shows life again. All
        calls of a sequence go to the same runner slot, which has its state.
        """
        if (sequence := call.frame.extra.get("sequence")) is not None:
            home = self._home_of(sequence)
            if home is not None and home.ready:
                home.send(call)
            else:
                self.waiting.append(call)
            return
        ready = self.ready_connections
        if len(ready) > 1:
            ready = [one for one in ready if not one.unresponsive] or ready
        if len(ready) == 1:
            ready[0].send(call)
        elif ready:
            min(ready, key=lambda one: len(one.pending)).send(call)
        else:
            self.waiting.append(call)

    def _home_of(self, sequence: str) -> "RunnerConnection | None":
        """The connection to the slot that keeps a sequence; every worker finds the same one."""
        slots = sorted((one for one in self.connections if not one.retired), key=lambda o: o.path)
        digest = blake2b(sequence.encode("utf-8", "replace"), digest_size=8).digest()
        return slots[int.from_bytes(digest, "big") % len(slots)] if slots else None


class CallOwner(Protocol):
    """Receives the results of calls."""

    def end(self, call: Call, answer: frames.Frame) -> None:
        """Called with the last frame of a call."""

    def reject(self, call: Call) -> None:
        """Called when a call has crashed too many runners."""


class RunnerConnection:
    """The connection to one runner slot; reconnects for as long as the slot is on the roster."""

    def __init__(
        self, path: str, model: Model, owner: CallOwner, on_change: Callable[[], None]
    ) -> None:
        self.path, self.model = path, model
        self.pending: dict[int, Call] = {}
        self.ready = self.retired = False
        self.missed, self.missed_at = 0, 0.0  # deadlines since the runner was last heard of
        self.scoreboard: Scoreboard | None = None
        self._owner, self._on_change = owner, on_change
        self._transport: asyncio.Transport | None = None
        self._outgoing: list[frames.Body] = []
        self._loop = asyncio.get_running_loop()
        self._connecting = self._loop.create_task(self._connect())

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        while not self.retired:
            try:
                await loop.create_unix_connection(lambda: _RunnerProtocol(self), self.path)
                return
            except OSError:
                await asyncio.sleep(RETRY)

    def on_connect(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        transport.set_write_buffer_limits(high=1 << 30)  # limited by the queue limit

    def on_frame(self, frame: frames.Frame) -> None:
        """Handles a frame from the runner."""
        self.missed = 0
        if frame.kind == frames.CONTROL:
            self._on_hello(frame.extra)
            return
        call = self.pending.get(frame.id)
        if call is None:
            _remove_spooled(frame)
        elif frame.kind == frames.CHUNK:
            self._on_chunk(call, frame)
        else:
            self._on_answer(call, frame)

    def _on_hello(self, details: dict[str, Any]) -> None:
        with suppress(OSError):
            self.scoreboard = Scoreboard(Path(details["scoreboard"]))
        self.ready = True
        self._on_change()
        self.model.send_waiting()

    def _on_chunk(self, call: Call, frame: frames.Frame) -> None:
        if call.skip:  # delivered before the runner died
            call.skip -= 1
            return
        call.received += 1
        call.crashes = 0  # it got past the point of the crash, so it need not be the cause
        token = frame.extra["data"].get("token_id")
        if token is not None:
            call.written.append(token)
        if frame.extra["final"]:
            self._end(call, frame)
        else:
            call.deliver(frame)

    def _on_answer(self, call: Call, frame: frames.Frame) -> None:
        if frame.extra:
            frame.body = frames.load_body(frame)
            _remove_spooled(frame)
        received, batch, run, encode = frame.times
        seconds = time.monotonic() - call.sent
        self.model.mean_seconds += 0.1 * (seconds - self.model.mean_seconds)
        frame.times = (received - call.sent, batch, run, encode)
        self._end(call, frame)

    def _end(self, call: Call, frame: frames.Frame) -> None:
        del self.pending[call.id]
        self._owner.end(call, frame)
        self._close_if_done()

    def send(self, call: Call) -> None:
        """Sends the call to the runner."""
        assert self._transport is not None
        self.pending[call.id] = call
        call.connection, call.sent = self, time.monotonic()
        if call.received and self.model.description.get("resumes"):
            call.frame.extra = {**call.frame.extra, "written": call.written}
        else:
            call.skip = call.received
        if call.crashes:
            call.frame.extra = {**call.frame.extra, "suspect": True}
        self._write(call.frame)

    def _write(self, frame: frames.Frame) -> None:
        """Writes with the next flush, together with the other frames of this turn of the loop."""
        if not self._outgoing:
            self._loop.call_soon(self._flush)
        self._outgoing += frames.pack(frame)

    def _flush(self) -> None:
        outgoing, self._outgoing = self._outgoing, []
        if outgoing and self._transport is not None:
            if sum(map(len, outgoing)) <= SMALL:
                self._transport.write(b"".join(outgoing))
            else:
                self._transport.writelines(outgoing)

    def cancel(self, call: Call) -> None:
        """Tells the runner that the answer is not needed any more."""
        if self.pending.pop(call.id, None) and self._transport is not None and self.ready:
            self._write(frames.Frame(frames.CANCEL, call.id))
        self._close_if_done()

    def miss(self) -> None:
        """Counts a call whose deadline passed here."""
        self.missed, self.missed_at = self.missed + 1, time.monotonic()

    @property
    def unresponsive(self) -> bool:
        """Whether consecutive deadlines passed and the runner's loop has not turned since."""
        if self.missed < MISSED_DEADLINES:
            return False
        return self.scoreboard is None or self.scoreboard.idle_for > (
            time.monotonic() - self.missed_at
        )

    def on_disconnect(self) -> None:
        """Dispatches the calls of a dead runner again; counts the crash for the suspects."""
        suspects = self.scoreboard.suspects if self.scoreboard else set()
        if self.scoreboard:
            self.scoreboard.close()
        self.scoreboard, self.ready, self._transport = None, False, None
        self._outgoing = []  # its calls are dispatched again
        self.missed = 0
        self._on_change()
        orphans, self.pending = list(self.pending.values()), {}
        if not self.retired:
            self._connecting = asyncio.get_running_loop().create_task(self._connect())
        for call in orphans:
            call.connection = None
            call.crashes += call.id in suspects
            if call.crashes >= MAX_CRASHES:
                self._owner.reject(call)
            else:
                self.model.dispatch(call)

    def retire(self) -> None:
        """Takes no new calls and closes the connection after the last answer."""
        self.retired = True
        self._close_if_done()

    def _close_if_done(self) -> None:
        if self.retired and not self.pending and self._transport is not None:
            self._transport.close()

    def close(self) -> None:
        """Closes the connection because the worker exits."""
        self.retired = True
        self._connecting.cancel()
        if self._transport is not None:
            self._transport.close()


class _RunnerProtocol(asyncio.Protocol):
    def __init__(self, connection: RunnerConnection) -> None:
        self._connection, self._unpacker = connection, frames.Unpacker()

    def connection_made(self, transport: Any) -> None:
        self._connection.on_connect(transport)

    def data_received(self, data: bytes) -> None:
        for frame in self._unpacker.feed(data):
            self._connection.on_frame(frame)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connection.on_disconnect()


def _remove_spooled(frame: frames.Frame) -> None:
    if "spool" in frame.extra:
        Path(frame.extra["spool"]).unlink(missing_ok=True)
