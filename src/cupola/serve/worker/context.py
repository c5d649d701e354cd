"""What every handler needs: settings, models, cache, metrics, and one way to ask a runner."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

from cupola.serve.cache.response_cache import Cache
from cupola.serve.http.connection import Server
from cupola.serve.http.messages import Refusal, Request, Response
from cupola.serve.ipc import frames as wire
from cupola.serve.master.generation import Cycle
from cupola.serve.settings.settings import Settings
from cupola.serve.worker.metrics import Metrics
from cupola.serve.worker.model_directory import Fleet
from cupola.serve.worker.runner_connections import Model


@dataclass
class Context:
    """One for each worker."""

    cycle: Cycle
    fleet: Fleet
    server: Server
    metrics: Metrics
    cache: Cache | None

    @property
    def settings(self) -> Settings:
        return self.cycle.settings

    def require_admin(self, request: Request) -> None:
        """Refusal 403 unless the admin endpoints are open here."""
        here = self.settings.admin == "on" or (
            self.settings.admin.startswith("unix:") and request.peer == self.settings.admin
        )
        if not here:
            raise Refusal(403, "the admin endpoints are off; see the setting `admin`")

    def timeout_of(self, request: Request) -> float:
        """The client's X-Request-Timeout in seconds, at most what the settings allow."""
        text = request.headers.get("x-request-timeout")
        if text is None:
            return self.settings.request_timeout
        try:
            wanted = float(text)
        except ValueError:
            wanted = -1.0
        if not wanted > 0:
            raise Refusal(400, f"X-Request-Timeout: expected seconds, got {text!r}")
        return min(wanted, self.settings.request_timeout)

    def caches(self, model: Model) -> bool:
        """Whether answers of this model go through the response cache."""
        return bool(
            self.cache is not None and model.about["cache"] and model.about.get("deterministic")
        )

    async def ask(self, model: Model, request: Request, frame: wire.Frame) -> wire.Frame:
        """An answer from the cache or a runner."""
        if self.cache is not None and self.caches(model):
            compute = partial(self._ask_runner, model, request, frame)
            return await self.cache.through(model, self.metrics.of(model), frame, compute)
        return await self._ask_runner(model, request, frame)

    async def _ask_runner(self, model: Model, request: Request, frame: wire.Frame) -> wire.Frame:
        answer: asyncio.Future[wire.Frame] = asyncio.get_running_loop().create_future()

        def deliver(found: wire.Frame) -> None:
            if not answer.done():
                answer.set_result(found)

        inference = Inference(self, model, request, frame)
        inference.deliver = deliver
        try:
            return await answer
        finally:
            inference.cancel()

    async def stream(
        self, model: Model, request: Request, frame: wire.Frame
    ) -> AsyncGenerator[dict[str, Any], None]:
        """The pieces of a streamed answer, counted."""
        counts = self.metrics.of(model)
        outcome = "cancelled"
        try:
            async for piece in self.fleet.calls.stream(model, frame, self.timeout_of(request)):
                if piece["final"]:
                    outcome = "ok"
                yield piece
        except Refusal as refusal:
            outcome = str(refusal.status)
            raise
        finally:
            counts.ended(outcome)


class Inference:
    """One request to a runner, counted. `deliver` is set by whoever waits for the answer."""

    __slots__ = ("_arrived_at", "_calls", "_counts", "call", "deliver")

    def __init__(self, context: Context, model: Model, request: Request, frame: wire.Frame) -> None:
        self._counts = context.metrics.of(model)
        self._arrived_at = request.arrived
        self._calls = context.fleet.calls
        self.deliver: Callable[[wire.Frame], object] = _nobody
        try:
            self.call = self._calls.submit(model, frame, context.timeout_of(request), self._answer)
        except Refusal as refusal:
            self._counts.ended(str(refusal.status))
            raise

    def _answer(self, answer: wire.Frame) -> None:
        self.deliver(answer)
        self._counts.answered(answer, time.monotonic() - self._arrived_at)

    def cancel(self) -> None:
        """Nobody waits any more."""
        if not self.call.ended:
            self._calls.cancel(self.call)
            self._counts.ended("cancelled")


@dataclass(slots=True)
class Later:
    """A response that `then` will make of a runner's answer; costs no task."""

    inference: Inference
    then: Callable[[wire.Frame], "Outcome"]


Outcome: TypeAlias = Response | Later | Awaitable[Response]


def _nobody(answer: wire.Frame) -> None:
    """Takes an answer that nobody waits for."""
