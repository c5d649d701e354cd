"""The application of a worker: paths to handlers, errors to answers, the log."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import lru_cache, partial
from typing import Any

import orjson

from cupola.errors import CupolaError
from cupola.serve import pages
from cupola.serve.http.connection import Reply, Server, Work
from cupola.serve.http.messages import Refusal, Request, Response
from cupola.serve.ipc.frames import Frame
from cupola.serve.master.generation import Cycle
from cupola.serve.protocols import openai, v2
from cupola.serve.worker.access_log import line
from cupola.serve.worker.context import Context, Later, Outcome
from cupola.serve.worker.metrics import Metrics
from cupola.serve.worker.model_directory import Fleet

Route = tuple[str, Callable[..., Outcome]]

# Exact paths. What is not here is a model's path, below.
EXACT: dict[str, Route] = {
    "/v2": ("GET", v2.server_metadata),
    "/v2/health/live": ("GET", v2.live),
    "/v2/health/ready": ("GET", v2.ready),
    "/v2/models/stats": ("GET", v2.statistics),
    "/v2/repository/index": ("POST", v2.index),
    "/v1/models": ("GET", openai.models),
    "/v1/completions": ("POST", openai.completions),
    "/v1/chat/completions": ("POST", openai.chat),
    "/metrics": ("GET", pages.metrics),
    "/": ("GET", pages.page),
    "/status": ("GET", pages.page),
    "/status.json": ("GET", pages.status),
    "/openapi.json": ("GET", pages.openapi),
    "/admin/reload": ("POST", pages.reload),
}
# What follows /v2/models/NAME[/versions/VERSION].
OF_MODEL: dict[str, Route] = {
    "": ("GET", v2.metadata),
    "ready": ("GET", v2.model_ready),
    "config": ("GET", v2.config),
    "stats": ("GET", v2.statistics),
    "infer": ("POST", v2.infer),
    "generate_stream": ("POST", v2.generate_stream),
}
OF_REPOSITORY: dict[str, Route] = {"load": ("POST", v2.load), "unload": ("POST", v2.unload)}


class Application(Server):
    """Answers requests and writes the access log."""

    def __init__(self, cycle: Cycle, fleet: Fleet, metrics: Metrics) -> None:
        super().__init__(cycle.settings, cycle.spool)
        from cupola.serve.cache.response_cache import Cache  # SQLite is not needed before the fork

        settings = cycle.settings
        self.cycle = cycle
        cache = (
            Cache(settings.cache_path, settings.cache_max_entry, settings.cache_max_age)
            if settings.cache_path
            else None
        )
        self.context = Context(cycle, fleet, self, metrics, cache)
        self._tasks: set[asyncio.Task[None]] = set()

    def answer(self, request: Request, reply: Reply) -> Work | None:
        """Routes, and turns every error into its JSON."""
        try:
            handler, arguments = route(request.method, request.path)
            outcome = handler(self.context, request, *arguments)
        except Exception as error:
            outcome = self._failure(request, error)
        return self._settle(request, reply, outcome)

    def _settle(self, request: Request, reply: Reply, outcome: Outcome) -> Work | None:
        if isinstance(outcome, Response):
            reply(request, outcome)
            return None
        if isinstance(outcome, Later):
            outcome.inference.deliver = partial(self._arrived, request, reply, outcome.then)
            return outcome.inference
        task = self.loop.create_task(self._wait(request, reply, outcome))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _arrived(
        self, request: Request, reply: Reply, then: Callable[[Frame], Outcome], answer: Frame
    ) -> None:
        try:
            outcome = then(answer)
        except Exception as error:
            outcome = self._failure(request, error)
        self._settle(request, reply, outcome)

    async def _wait(self, request: Request, reply: Reply, coming: Awaitable[Response]) -> None:
        try:
            response = await coming
        except Exception as error:
            response = self._failure(request, error)
        reply(request, response)

    def _failure(self, request: Request, error: Exception) -> Response:
        if isinstance(error, Refusal):
            return self.refusal(error, request)
        if isinstance(error, CupolaError):
            return self.refusal(Refusal(400, str(error)), request)
        self.failed(request, error)
        return self.refusal(Refusal(500, "internal error"), request)

    def failed(self, request: Request, error: Exception) -> None:
        """Logs a fault of ours."""
        self.cycle.log("error", f"request {request.id} {request.path}: {error!r}")

    def refusal(self, refusal: Refusal, request: Request) -> Response:
        """{"error": ...}, in OpenAI's form under /v1/."""
        if request.path.startswith("/v1/"):
            body: dict[str, Any] = {"error": openai.error_of(refusal)}
        else:
            body = {"error": refusal.message}
        return Response(refusal.status, orjson.dumps(body), refusal.headers)

    def finished(self, request: Request, response: Response, sent: int) -> None:
        """Counts and logs a request."""
        self.context.metrics.count_request(response.status)
        if self.cycle.access_log is not None:
            seconds = time.monotonic() - request.arrived
            form = self.settings.access_log_format
            self.cycle.access_log.write(line(request, response.status, sent, seconds, form))

    def connection_closed(self) -> None:
        self.context.metrics.connections.set(len(self.connections))


@lru_cache(1024)
def route(method: str, path: str) -> tuple[Callable[..., Outcome], tuple[Any, ...]]:
    """The handler and what it takes from the path; Refusal 404 or 405."""
    plain = path if path == "/" else path.rstrip("/")
    arguments: tuple[Any, ...] = ()
    entry = EXACT.get(plain)
    if entry is None:
        entry, arguments = _model_route(plain.split("/"))
    if entry is None and path.startswith("/pages/"):
        entry, arguments = ("GET", pages.asset), (path.removeprefix("/pages/"),)
    if entry is None:
        raise Refusal(404, f"no such path: {path}")
    allowed, handler = entry
    if method != allowed and not (allowed == "GET" and method == "HEAD"):
        raise Refusal(405, f"{path} takes {allowed}", [("Allow", allowed)])
    return handler, arguments


def _model_route(parts: list[str]) -> tuple[Route | None, tuple[Any, ...]]:
    match parts:
        case ["", "v2", "models", name, "versions", version, *rest] if len(rest) <= 1:
            return OF_MODEL.get(rest[0] if rest else ""), (name, version)
        case ["", "v2", "models", name, *rest] if len(rest) <= 1:
            return OF_MODEL.get(rest[0] if rest else ""), (name, None)
        case ["", "v2", "repository", "models", name, act]:
            return OF_REPOSITORY.get(act), (name,)
    return None, ()
