"""The web pages: one for each task that has one, and the status page.

A page is a folder with `page.html`, whose first line goes into the head of shell.html and whose
rest is its content, `page.js`, perhaps `page.css`, and other files. It is at /pages/NAME.html and
its files are at /pages/NAME/. A task of a plug-in names a folder of its own.

Pages and their files need no API key, since a browser opens them without one; they ask for it and
send it with their requests. The list of models needs a key as well.
"""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from cupola.serve.http.messages import HTTPError, Request, Response, json_response
from cupola.serve.http.routing import Route
from cupola.serve.worker.context import WorkerContext

FOLDER = Path(__file__).parent
PAGE_DETAILS = ("threshold", "text", "labels", "prompts", "context_length")
OTHER = "other"  # the page of models whose task has none
_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
    "jpg": "image/jpeg",
    "png": "image/png",
}
_HEADERS = [
    ("Content-Security-Policy", "default-src 'self'; img-src 'self' blob: data:; "
     "style-src 'self' 'unsafe-inline'"),
    ("X-Content-Type-Options", "nosniff"),
    ("Cache-Control", "no-cache"),
]  # fmt: skip


def start_page(context: WorkerContext, request: Request) -> Response:
    """The page of the model whose task has the lowest rank."""
    models = _models(context)
    return _page(context, models[0]["page"] if models else OTHER, "pages/")


def status_page(context: WorkerContext, request: Request) -> Response:
    """Processes, generations and signals."""
    return _page(context, "status", "pages/")


def models(context: WorkerContext, request: Request) -> Response:
    """The models with their pages, for the list in the header."""
    found = _models(context)
    return json_response([entry for entry in found if context.may_use(request, entry["name"])])


def file(context: WorkerContext, request: Request, name: str) -> Response:
    """A page, or a file that all pages share."""
    if name.endswith(".html"):
        return _page(context, name.removesuffix(".html"), "")
    return _response(context, FOLDER, name)


def page_file(context: WorkerContext, request: Request, page: str, name: str) -> Response:
    """A file of one page."""
    return _response(context, _folder(context, page), name)


def _models(context: WorkerContext) -> list[dict[str, Any]]:
    """Name, task and page of each model, and what its page uses, by pages' ranks."""
    found = []
    for name in context.directory.models:
        about = context.directory.find(name).description
        if "page" in about:
            page = about["page"]
            entry = {"name": name, "task": about["task"], "page": page["name"] or OTHER}
            details = about.get("details", {})
            entry |= {key: details[key] for key in PAGE_DETAILS if key in details}
            entry |= {"stateful": True} if about.get("stateful") else {}
            found.append((page["rank"], name, entry))
    return [entry for *_, entry in sorted(found, key=lambda each: each[:2])]


def _plugin_folders(context: WorkerContext) -> Iterator[tuple[str, Path]]:
    for versions in context.directory.models.values():
        for model in versions.values():
            page = model.description.get("page", {})
            if page.get("folder"):
                yield page["name"], Path(page["folder"])


def _folder(context: WorkerContext, page: str) -> Path:
    found = dict(_plugin_folders(context)).get(page) or _own_folders().get(page)
    if found is None or not (found / "page.html").is_file():
        raise HTTPError(404, f"no such page: {page[:200]}")
    return found


@cache
def _own_folders() -> dict[str, Path]:
    """Folders by name: a request names them, so a path (`x%2F..%2F..`) must not be one."""
    return {file.parent.name: file.parent for file in FOLDER.glob("[!.]*/page.html")}


def _page(context: WorkerContext, name: str, prefix: str) -> Response:
    """The page in its shell; `prefix` leads to /pages/ from where the page is."""
    if not context.settings.pages:
        raise HTTPError(404, "the pages are off")
    body = _assemble(_folder(context, name), f"{prefix}{name}/")
    return Response(200, body, [*_HEADERS], _TYPES["html"])


@cache
def _assemble(folder: Path, base: str) -> bytes:
    head, _, main = (folder / "page.html").read_text(encoding="utf-8").partition("\n")
    if (folder / "page.css").is_file():
        head += '\n<link rel="stylesheet" href="page.css">'
    shell = (FOLDER / "shell.html").read_text(encoding="utf-8")
    for slot, text in (("base", base), ("head", head), ("main", main.strip())):
        shell = shell.replace(f"{{{{{slot}}}}}", text)
    return shell.encode()


def _response(context: WorkerContext, folder: Path, name: str) -> Response:
    is_known = context.settings.pages and name in _names(folder)
    body = _read(folder, name) if is_known else None
    if body is None:
        raise HTTPError(404, f"no such page: {name}")
    kind = _TYPES[name.rpartition(".")[2]]
    return Response(200, body, [*_HEADERS], kind)


@cache
def _names(folder: Path) -> frozenset[str]:
    """The files of a page: requests name them, so only these are read and cached."""
    return frozenset(
        file.name
        for file in folder.iterdir()
        if file.suffix[1:] in _TYPES and file.is_file() and not file.name.startswith(".")
    )


@cache
def _read(folder: Path, name: str) -> bytes:
    return (folder / name).read_bytes()


ROUTES = [
    Route("GET", "/", start_page, public=True),
    Route("GET", "/status", status_page, operations=True, public=True),
    Route("GET", "/pages/models.json", models),
    Route("GET", "/pages/{name}", file, public=True),
    Route("GET", "/pages/{page}/{name}", page_file, public=True),
]
