"""What operators use: status, metrics, the API description, and reload."""

import os
import signal
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import orjson

import cupola
from cupola.serve.http.messages import HTTPError, Request, Response, json_response
from cupola.serve.http.openapi import describe
from cupola.serve.http.routing import JSON, TEXT, Route, Router
from cupola.serve.ipc import paths
from cupola.serve.worker.context import WorkerContext

INFO = {
    "title": "Cupola",
    "version": cupola.__version__,
    "description": "Open Inference Protocol v2 with Triton's extensions, and OpenAI's endpoints.",
    "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
}


@dataclass(frozen=True)
class Health:
    """Answered by every running worker, also while models are loading and while it drains."""

    status: Literal["ok"] = "ok"


def health(context: WorkerContext, request: Request) -> Response:
    """Whether the worker is running; whether the models are ready is at /v2/health/ready."""
    return json_response(Health())


def status(context: WorkerContext, request: Request) -> Response:
    """Processes, generations and signals, as in `cupola status`."""
    if not context.settings.pages:
        raise HTTPError(404, "the status page is off")
    return json_response(_read_status(context))


def _read_status(context: WorkerContext) -> dict[str, Any]:
    home = context.generation.home
    found = paths.read_status(home.parent)
    found["runners"] = paths.read_json(home / "runners.json").get("runners", [])
    return found


def metrics(context: WorkerContext, request: Request) -> Response:
    """The Prometheus text format, over all workers."""
    context.metrics.connections.set(len(context.server.connections))
    found = _read_status(context)
    body = context.metrics.text(found, found["runners"])
    return Response(200, body, content_type="text/plain; version=0.0.4; charset=utf-8")


def openapi(context: WorkerContext, request: Request) -> Response:
    """The API description, OpenAPI 3.1."""
    return Response(200, _describe(context.router))


@cache
def _describe(router: Router) -> bytes:
    return orjson.dumps(describe(INFO, router.routes))


def reload(context: WorkerContext, request: Request) -> Response:
    """Sends HUP to the master."""
    context.require_admin(request)
    os.kill(int(_read_status(context)["pid"]), signal.SIGHUP)
    return Response(200, b"{}")


_OBJECT = {"type": "object"}
ROUTES = [
    Route("GET", "/health", health, "Whether the server is running", "operations", {200: Health},
          public=True),
    Route("GET", "/metrics", metrics, "Prometheus metrics", "operations",
          {200: {TEXT: {"type": "string"}}}, operations=True),
    Route("GET", "/status.json", status, "Processes, generations, signals", "operations",
          {200: {JSON: _OBJECT}}, errors=(404,), operations=True),
    Route("POST", "/admin/reload", reload, "Reload (admin)", "operations",
          {200: {JSON: _OBJECT}}, errors=(403, 415), operations=True),
    Route("GET", "/openapi.json", openapi),
]  # fmt: skip
