"""The pages, the metrics, the API description, and what they tell."""

import os
import signal
from functools import cache
from importlib.resources import files
from typing import Any

import orjson

from cupola.serve.http.messages import Refusal, Request, Response
from cupola.serve.worker.context import Context

_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
    "json": "application/json",
    "jpg": "image/jpeg",
    "png": "image/png",
}
_SECURITY = [
    ("Content-Security-Policy", "default-src 'self'; img-src 'self' blob: data:; "
     "style-src 'self' 'unsafe-inline'"),
    ("X-Content-Type-Options", "nosniff"),
]  # fmt: skip


@cache
def _read(name: str) -> bytes | None:
    file = files(__name__) / name
    known = name.rpartition(".")[2] in _TYPES and "/" not in name and not name.startswith(".")
    return file.read_bytes() if known and file.is_file() else None


def asset(context: Context, request: Request, name: str) -> Response:
    """A file of this folder."""
    body = _read(name) if context.settings.pages else None
    if body is None:
        raise Refusal(404, f"no such page: {name}")
    kind = _TYPES[name.rpartition(".")[2]]
    return Response(200, body, [*_SECURITY, ("Cache-Control", "no-cache")], kind)


def page(context: Context, request: Request) -> Response:
    """The page at / (try a model) and the one at /status."""
    return asset(context, request, "status.html" if request.path == "/status" else "index.html")


def status(context: Context, request: Request) -> Response:
    """Processes, generations and signals, as `cupola status` shows them."""
    if not context.settings.pages:
        raise Refusal(404, "the status page is off")
    return Response(200, orjson.dumps(_status(context)))


def _status(context: Context) -> dict[str, Any]:
    from cupola.serve.ipc import paths

    found = paths.read_status(context.cycle.home.parent)
    found["runners"] = paths.read_json(context.cycle.home / "runners.json").get("runners", [])
    return found


def metrics(context: Context, request: Request) -> Response:
    """Prometheus's text form, over all workers."""
    context.metrics.connections.set(len(context.server.connections))
    found = _status(context)
    body = context.metrics.text(found, found["runners"])
    return Response(200, body, content_type="text/plain; version=0.0.4; charset=utf-8")


def openapi(context: Context, request: Request) -> Response:
    """The API's description, OpenAPI 3.1."""
    body = _read("openapi.json")
    assert body is not None
    return Response(200, body)


def reload(context: Context, request: Request) -> Response:
    """HUP to the master."""
    context.require_admin(request)
    os.kill(int(_status(context)["pid"]), signal.SIGHUP)
    return Response(200, b"{}")
