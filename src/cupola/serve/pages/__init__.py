"""The web pages: static files of this folder."""

from functools import cache
from importlib.resources import files

from cupola.serve.http.messages import HTTPError, Request, Response
from cupola.serve.http.routing import Route
from cupola.serve.worker.context import WorkerContext

_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
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


def asset(context: WorkerContext, request: Request, name: str) -> Response:
    """A file of this folder."""
    body = _read(name) if context.settings.pages else None
    if body is None:
        raise HTTPError(404, f"no such page: {name}")
    kind = _TYPES[name.rpartition(".")[2]]
    return Response(200, body, [*_SECURITY, ("Cache-Control", "no-cache")], kind)


def page(context: WorkerContext, request: Request) -> Response:
    """The page at / (try a model) and the one at /status."""
    return asset(context, request, "status.html" if request.path == "/status" else "index.html")


ROUTES = [
    Route("GET", "/", page),
    Route("GET", "/status", page),
    Route("GET", "/pages/{name}", asset),
]
