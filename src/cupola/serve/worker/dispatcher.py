"""The calls in progress in a worker: admission, deadlines, cancellation, and the last answer."""

import asyncio
import math
import os
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from itertools import count
from typing import Any

from cupola.serve.generation import Generation
from cupola.serve.http.messages import HTTPError
from cupola.serve.ipc import frames
from cupola.serve.worker.quarantine import quarantine
from cupola.serve.worker.runner_connections import Call, Model

SWEEP_INTERVAL = 0.02  # seconds between two checks for expired deadlines


class Dispatcher:
    """All calls of one worker, to all models."""

    def __init__(self, generation: Generation) -> None:
        self.generation = generation
        self._ids = count(os.getpid() << 32)  # unique among all workers
        self._open: set[Call] = set()
        self._sweeping = False

    def submit(
        self,
        model: Model,
        frame: frames.Frame,
        timeout: float,
        deliver: Callable[[frames.Frame], None],
        cost: int = 1,
    ) -> Call:
        """Sends a request to a runner. HTTPError 429 if too many wait, 503 if none can answer.

        `cost`: how many requests it counts for the queue limit.

        `deliver` is called with exactly one ANSWER or final CHUNK (at the deadline, an ANSWER with
        status 504), and never after `cancel`.
        """
        admit(model, cost)
        frame.id = next(self._ids)
        frame.times = (time.monotonic() + timeout, 0.0, 0.0, 0.0)
        call = Call(frame, model, timeout, deliver, cost)
        model.hold(+cost)
        self._open.add(call)
        if not self._sweeping:
            self._schedule_sweep()
        model.dispatch(call)
        return call

    def _schedule_sweep(self) -> None:
        self._sweeping = True
        asyncio.get_running_loop().call_later(SWEEP_INTERVAL, self._sweep)

    def _sweep(self) -> None:
        """Ends expired calls. One timer for all calls costs less than one per call."""
        now = time.monotonic()
        for call in [call for call in self._open if call.frame.times[0] < now]:
            if call.connection is not None:
                call.connection.miss()
            error = f"{call.model.name}: no answer within {call.timeout:g} s"
            self.end(call, frames.failure(call.id, 504, error))
        self._sweeping = False
        if self._open:
            self._schedule_sweep()

    def end(self, call: Call, answer: frames.Frame) -> None:
        """Delivers the last frame of a call."""
        if not call.ended:
            deliver = call.deliver
            self.cancel(call)
            deliver(answer)

    def cancel(self, call: Call) -> None:
        """Ends a call without an answer and tells the runner that works on it."""
        if call.ended:
            return
        call.ended = True
        self._open.discard(call)
        call.model.hold(-call.cost)
        if call.connection is not None:
            if call.id in call.connection.pending:
                call.connection.cancel(call)
        else:
            with suppress(ValueError):
                call.model.waiting.remove(call)
        call.deliver = _ignore  # ends a reference cycle, so that the body is freed now

    def reject(self, call: Call) -> None:
        """Quarantines a request that was being processed in too many runner crashes."""
        where = quarantine(self.generation.quarantine, call)
        text = f"request {call.id:x} crashed {call.crashes} runners: quarantined, {where}"
        self.generation.log("error", text)
        error = f"this request crashed {call.crashes} runner processes; it will not be retried"
        self.end(call, frames.failure(call.id, 500, error))

    async def stream(
        self, model: Model, frame: frames.Frame, timeout: float
    ) -> AsyncGenerator[dict[str, Any], None]:
        """The chunks of an answer; HTTPError if the runner refuses or the deadline passes.

        `timeout` is the time to the first chunk, and between two chunks. Chunks by which a runner
        reports that a request waits only extend it.
        """
        received: asyncio.Queue[frames.Frame] = asyncio.Queue()
        call = self.submit(model, frame, timeout, received.put_nowait)
        try:
            while True:
                found = await received.get()
                if found.kind == frames.ANSWER:
                    raise HTTPError(found.status, found.extra["error"])
                call.frame.times = (time.monotonic() + timeout, *call.frame.times[1:])
                if found.extra["data"].get("waiting"):
                    continue
                yield found.extra
                if found.extra["final"]:
                    return
        finally:
            self.cancel(call)


def admit(model: Model, cost: int = 1) -> None:
    """HTTPError 429 if too many requests wait for the model, 503 if its runner cannot start."""
    held = model.in_flight.total
    if held + cost > model.description["queue_limit"]:
        runners = max(1, len(model.ready_connections))
        seconds = max(1, math.ceil(held * model.mean_seconds / runners))
        retry = [("Retry-After", str(seconds))]
        raise HTTPError(429, f"{model.name}: {held} requests are waiting", retry)
    if model.description.get("state") == "failed" and not model.ready_connections:
        raise HTTPError(503, f"{model.name}: its runner cannot start")


def _ignore(answer: frames.Frame) -> None:
    """Takes an answer to a call that has ended."""
