"""The calls that a worker has under way: admission, deadlines, cancellation, the last answer."""

import asyncio
import math
import os
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from itertools import count
from typing import Any

from cupola.serve.http.messages import Refusal
from cupola.serve.ipc import frames as wire
from cupola.serve.master.generation import Cycle
from cupola.serve.worker.quarantine import set_aside
from cupola.serve.worker.runner_connections import Call, Model

SWEEP = 0.02  # seconds between two looks for calls whose deadline has passed


class Calls:
    """All calls of one worker, to whichever model."""

    def __init__(self, cycle: Cycle) -> None:
        self.cycle = cycle
        self._ids = count(os.getpid() << 32)  # unique among all workers
        self._open: set[Call] = set()
        self._sweeping = False

    def submit(
        self, model: Model, frame: wire.Frame, timeout: float,
        deliver: Callable[[wire.Frame], None],
    ) -> Call:  # fmt: skip
        """Sends a request to a runner; Refusal 429 when too many wait, 503 when none will come.

        Exactly one ANSWER, or last CHUNK, reaches `deliver`, a 504 at the deadline; none after
        `cancel`.
        """
        _admit(model)
        frame.id = next(self._ids)
        frame.times = (time.monotonic() + timeout, 0.0, 0.0, 0.0)
        call = Call(frame, model, timeout, deliver)
        model.hold(+1)
        self._open.add(call)
        if not self._sweeping:
            self._sweep_later()
        model.place(call)
        return call

    def _sweep_later(self) -> None:
        self._sweeping = True
        asyncio.get_running_loop().call_later(SWEEP, self._sweep)

    def _sweep(self) -> None:
        """One timer for all calls costs less than one for each."""
        now = time.monotonic()
        for call in [call for call in self._open if call.frame.times[0] < now]:
            error = f"{call.model.name}: no answer within {call.timeout:g} s"
            self.end(call, wire.refusal(call.id, 504, error))
        self._sweeping = False
        if self._open:
            self._sweep_later()

    def end(self, call: Call, answer: wire.Frame) -> None:
        """The call's last frame."""
        if not call.ended:
            self.cancel(call)
            call.deliver(answer)

    def cancel(self, call: Call) -> None:
        """Nobody waits any more; a runner that works on it is told."""
        if call.ended:
            return
        call.ended = True
        self._open.discard(call)
        call.model.hold(-1)
        if call.link is not None:
            call.link.cancel(call)
        else:
            with suppress(ValueError):
                call.model.waiting.remove(call)

    def killed(self, call: Call) -> None:
        """A request that was in the batch of two runners that died: it goes to the quarantine."""
        set_aside(self.cycle.settings.quarantine or self.cycle.home.parent / "quarantine", call)
        self.cycle.log("error", f"request {call.id:x} killed {call.deaths} runners: refused")
        text = "this request ended two processes that worked on it; it will not be tried again"
        self.end(call, wire.refusal(call.id, 500, text))

    async def stream(
        self, model: Model, frame: wire.Frame, timeout: float
    ) -> AsyncGenerator[dict[str, Any], None]:
        """Chunk after chunk; a Refusal if the runner refuses or the deadline passes."""
        frames: asyncio.Queue[wire.Frame] = asyncio.Queue()
        call = self.submit(model, frame, timeout, frames.put_nowait)
        try:
            while True:
                found = await frames.get()
                if found.kind == wire.ANSWER:
                    raise Refusal(found.status, found.extra["error"])
                yield found.extra
                if found.extra["final"]:
                    return
        finally:
            self.cancel(call)


def _admit(model: Model) -> None:
    held = model.places.held
    if held >= model.about["queue_limit"]:
        runners = max(1, len(model.ready_links))
        wait = max(1, math.ceil(held * model.seconds / runners))
        raise Refusal(429, f"{model.name}: {held} requests wait", [("Retry-After", str(wait))])
    if model.about.get("state") == "failed" and not model.ready_links:
        raise Refusal(503, f"{model.name}: its runner cannot start")
