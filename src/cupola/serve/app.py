"""The application of a worker: paths to handlers, errors to answers, the log."""

import inspect
import time
from collections.abc import Callable
from typing import Any

import orjson

from cupola.errors import CupolaError
from cupola.serve import pages
from cupola.serve.accesslog import line
from cupola.serve.context import Context
from cupola.serve.cycle import Cycle
from cupola.serve.fleet import Fleet
from cupola.serve.http import Refusal, Request, Response, Server
from cupola.serve.metrics import Metrics
from cupola.serve.protocols import openai, v2

Route = tuple[str, Callable[..., Any]]

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
        from cupola.serve.cache import Cache  # SQLite is not needed before the fork

        settings = cycle.settings
        self.cycle = cycle
        cache = (
            Cache(settings.cache_path, settings.cache_max_entry, settings.cache_max_age)
            if settings.cache_path
            else None
        )
        self.context = Context(cycle, fleet, self, metrics, cache)
        self._statuses: dict[int, Any] = {}

    async def answer(self, request: Request) -> Response:
        """Routes, and turns every error into its JSON."""
        try:
            handler, arguments = route(request)
            found = handler(self.context, request, *arguments)
            response: Response = await found if inspect.isawaitable(found) else found
            return response
        except Refusal as refusal:
            return self.refusal(refusal, request)
        except CupolaError as error:
            return self.refusal(Refusal(400, str(error)), request)
        except Exception as error:
            self.cycle.log("error", f"request {request.id} {request.path}: {error!r}")
            return self.refusal(Refusal(500, "internal error"), request)

    def refusal(self, refusal: Refusal, request: Request) -> Response:
        """{"error": ...}, in OpenAI's form under /v1/."""
        if request.path.startswith("/v1/"):
            body: dict[str, Any] = {"error": openai.error_of(refusal)}
        else:
            body = {"error": refusal.message}
        return Response(refusal.status, orjson.dumps(body), refusal.headers)

    def finished(self, request: Request, response: Response, sent: int) -> None:
        """Counts and logs a request."""
        counter = self._statuses.get(response.status)
        if counter is None:
            counter = self.context.metrics.requests.labels(str(response.status))
            self._statuses[response.status] = counter
        counter.inc()
        if self.cycle.access_log is not None:
            seconds = time.monotonic() - request.arrived
            form = self.settings.access_log_format
            self.cycle.access_log.write(line(request, response.status, sent, seconds, form))

    def connection_closed(self) -> None:
        self.context.metrics.connections.set(len(self.connections))


def route(request: Request) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """The handler and what it takes from the path; Refusal 404 or 405."""
    path = request.path if request.path == "/" else request.path.rstrip("/")
    arguments: tuple[Any, ...] = ()
    entry = EXACT.get(path)
    if entry is None:
        entry, arguments = _model_route(path.split("/"))
    if entry is None and request.path.startswith("/pages/"):
        entry, arguments = ("GET", pages.asset), (request.path.removeprefix("/pages/"),)
    if entry is None:
        raise Refusal(404, f"no such path: {request.path}")
    method, handler = entry
    if request.method != method and not (method == "GET" and request.method == "HEAD"):
        raise Refusal(405, f"{request.path} takes {method}", [("Allow", method)])
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
