"""What handlers need: settings, models, cache, metrics, and a way to run an inference."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

from cupola.serve.access.control import AccessControl
from cupola.serve.cache.response_cache import ResponseCache, request_key
from cupola.serve.generation import Generation
from cupola.serve.http.compression import Decompressor
from cupola.serve.http.messages import HTTPError, Request, Response
from cupola.serve.http.origin import refuse_foreign_sites
from cupola.serve.http.routing import Router
from cupola.serve.http.server import Server
from cupola.serve.ipc.frames import Frame
from cupola.serve.settings.settings import Settings
from cupola.serve.worker.metrics import Metrics
from cupola.serve.worker.model_directory import ModelDirectory
from cupola.serve.worker.runner_connections import Model


@dataclass
class WorkerContext:
    """The first argument of every handler; one per worker."""

    generation: Generation
    directory: ModelDirectory
    server: Server
    router: Router
    metrics: Metrics
    cache: ResponseCache | None
    decompressor: Decompressor
    access: AccessControl | None = None

    @property
    def settings(self) -> Settings:
        return self.generation.settings

    @property
    def leaving(self) -> bool:
        """Whether the server stops, so that load balancers should choose another one."""
        return self.generation.leaving

    def may_use(self, request: Request, name: str) -> bool:
        """Whether the request's API key is for the model of that name."""
        key = request.key
        return key is None or key.models is None or name in key.models

    def find(self, request: Request, name: str, version: str | None = None) -> Model:
        """A model, as ModelDirectory.find; HTTPError 403 if the request's API key is not for it."""
        if not self.may_use(request, name):
            assert request.key is not None
            raise HTTPError(403, f"the API key {request.key.name!r} is not for model {name!r}")
        return self.directory.find(name, version)

    def require_admin(self, request: Request) -> None:
        """HTTPError unless the admin endpoints are open for this connection and this client.

        Over TCP, a request that a browser was made to send by another site is refused.
        """
        admin = self.settings.admin
        if admin.startswith("unix:") and request.peer == admin:
            return
        if admin != "on":
            raise HTTPError(403, "the admin endpoints are off; see the setting `admin`")
        refuse_foreign_sites(request, self.settings.admin_hosts)

    def timeout_of(self, request: Request) -> float:
        """The X-Request-Timeout of the client in seconds, limited by `request_timeout`."""
        text = request.headers.get("x-request-timeout")
        if text is None:
            return self.settings.request_timeout
        try:
            seconds = float(text)
        except ValueError:
            seconds = -1.0
        if not seconds > 0:
            raise HTTPError(400, f"X-Request-Timeout: expected seconds, got {text!r}")
        return min(seconds, self.settings.request_timeout)

    def caches(self, model: Model) -> bool:
        """Whether answers of this model are cached."""
        about = model.description
        return bool(self.cache is not None and about["cache"] and about.get("deterministic"))

    async def infer(self, model: Model, request: Request, frame: Frame, cost: int = 1) -> Frame:
        """The answer from the cache or from a runner. `cost`: see Dispatcher.submit."""
        if self.cache is None or not self.caches(model):
            return await self._ask_runner(model, request, frame, cost)
        compute = partial(self._ask_runner, model, request, frame, cost)
        identity = [model.name, model.version, model.description.get("fingerprint")]
        key = request_key(identity, frame)
        return await self.cache.get_or_compute(key, self.metrics.for_model(model), compute)

    async def _ask_runner(self, model: Model, request: Request, frame: Frame, cost: int) -> Frame:
        answer: asyncio.Future[Frame] = asyncio.get_running_loop().create_future()

        def deliver(found: Frame) -> None:
            if not answer.done():
                answer.set_result(found)

        inference = Inference(self, model, request, frame, cost)
        inference.deliver = deliver
        try:
            return await answer
        finally:
            inference.cancel()

    async def stream(
        self, model: Model, request: Request, frame: Frame
    ) -> AsyncGenerator[dict[str, Any], None]:
        """The chunks of a streamed answer; counts the stream when it ends."""
        counts = self.metrics.for_model(model)
        dispatcher = self.directory.dispatcher
        outcome, first = "cancelled", True
        _pass_trace(request, frame)
        try:
            async for chunk in dispatcher.stream(model, frame, self.timeout_of(request)):
                if chunk["final"]:
                    outcome = "ok"
                if "token_id" in chunk["data"]:
                    counts.record_tokens(chunk["data"], first=first)
                    first = False
                yield chunk
        except HTTPError as error:
            outcome = str(error.status)
            raise
        finally:
            counts.record_end(outcome)


class Inference:
    """One counted request to a runner. Whoever waits for the answer sets `deliver`."""

    __slots__ = ("_counts", "_dispatcher", "_request", "_submitted_at", "call", "deliver")

    def __init__(
        self, context: WorkerContext, model: Model, request: Request, frame: Frame, cost: int = 1
    ) -> None:
        self._counts = context.metrics.for_model(model)
        self._request, self._submitted_at = request, 0.0
        if request.trace is not None:
            self._submitted_at = time.monotonic()
            _pass_trace(request, frame)
        self._dispatcher = context.directory.dispatcher
        self.deliver: Callable[[Frame], object] = _ignore
        timeout = context.timeout_of(request)
        try:
            self.call = self._dispatcher.submit(model, frame, timeout, self._on_answer, cost)
        except HTTPError as error:
            self._counts.record_end(str(error.status))
            raise

    def _on_answer(self, answer: Frame) -> None:
        request = self._request
        if request.trace is not None and answer.status == 200:
            telemetry = self._counts.telemetry
            assert telemetry is not None
            arrived = self.call.sent + answer.times[0]
            telemetry.queued(request.trace, self._submitted_at, arrived)
        self.deliver(answer)
        self._counts.record_answer(answer, time.monotonic() - request.arrived)

    def cancel(self) -> None:
        """Stops the inference, unless it has ended."""
        if not self.call.ended:
            self._dispatcher.cancel(self.call)
            self._counts.record_end("cancelled")


@dataclass(slots=True)
class DeferredResponse:
    """A response that `then` makes from a runner's answer, without the cost of a task."""

    inference: Inference
    then: Callable[[Frame], "Outcome"]


Outcome: TypeAlias = Response | DeferredResponse | Awaitable[Response]


def _pass_trace(request: Request, frame: Frame) -> None:
    """Tells the runner the trace of a request whose spans are recorded."""
    if request.trace is not None and request.trace.sampled:
        frame.extra["trace"] = request.trace.header


def _ignore(answer: Frame) -> None:
    """Takes an answer that no one waits for."""
