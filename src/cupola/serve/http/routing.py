"""Routes: each is declared once, with its handler and what the API description says about it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Literal, TypeAlias
from urllib.parse import unquote

from cupola.serve.http.messages import HTTPError

KEPT_PATHS, KEPT_LENGTH = 1024, 256  # routes kept, of paths of at most so many characters

# A class (dataclass or pydantic model) whose JSON schema is derived, or a JSON schema.
Schema: TypeAlias = "type[Any] | dict[str, Any]"
Content: TypeAlias = Mapping[str, Schema]  # content type -> schema
Handler: TypeAlias = Callable[..., Any]

JSON, TEXT, BINARY = "application/json", "text/plain", "application/octet-stream"


@dataclass(frozen=True)
class Parameter:
    """A parameter of a path template or a request header."""

    name: str
    location: Literal["path", "header"]
    schema: dict[str, Any]
    description: str = ""


@dataclass(frozen=True, eq=False)
class Error:
    """The body of an error response."""

    error: str


@dataclass(frozen=True, eq=False)
class Route:
    """One method and path. A route without `responses` is left out of the API description.

    `path` may contain {parameters}, which are passed to the handler after context and request.
    A response given as a class stands for JSON; `errors` lists statuses with an `error_body`.
    """

    method: str
    path: str
    handler: Handler
    summary: str = ""
    tag: str = ""
    responses: Mapping[int, type[Any] | Content] | None = None
    errors: Sequence[int] = ()
    error_body: type[Any] = Error
    request: Content | None = None
    request_required: bool = True
    parameters: Sequence[Parameter] = ()
    operations: bool = False  # with `operations_listen`, only answered there
    public: bool = False  # answered without an API key and without limits


class Router:
    """Finds the handler of a request. `error_formats`: path prefix -> the body of an error.

    `methods`: those of gRPC, by path.
    """

    def __init__(
        self,
        routes: Sequence[Route],
        error_formats: Mapping[str, Callable[[HTTPError], dict[str, Any]]],
        methods: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        self.routes, self._error_formats, self.methods = routes, error_formats, methods
        self._fixed: dict[str, Route] = {}
        self._templates: dict[int, list[tuple[list[str], Route]]] = {}
        for route in routes:
            if "{" in route.path:
                parts = route.path.split("/")
                self._templates.setdefault(len(parts), []).append((parts, route))
            else:
                self._fixed[route.path] = route
        self._found = lru_cache(KEPT_PATHS)(self._find)

    def error_body(self, path: str, error: HTTPError) -> dict[str, Any]:
        """The JSON body of an error response."""
        for prefix, format_error in self._error_formats.items():
            if path.startswith(prefix):
                return format_error(error)
        return {"error": error.message}

    def match(
        self, method: str, path: str, operations: bool = True
    ) -> tuple[Handler, tuple[str, ...]]:
        """The handler and its path arguments, as `route`."""
        route, arguments = self.route(method, path, operations)
        return route.handler, arguments

    def route(
        self, method: str, path: str, operations: bool = True
    ) -> tuple[Route, tuple[str, ...]]:
        """The route and its path arguments; HTTPError 404 or 405.

        Without `operations`, the routes for operators do not exist.

        `path` is percent-encoded, so that an argument may contain an escaped slash (`org%2Fname`).
        """
        find = self._found if len(path) <= KEPT_LENGTH else self._find
        route, arguments = find(path)
        if route is None or (route.operations and not operations):
            raise HTTPError(404, f"no such path: {path[:200]}")
        if method != route.method and (method, route.method) != ("HEAD", "GET"):
            raise HTTPError(405, f"{path[:200]} accepts {route.method}", [("Allow", route.method)])
        return route, arguments

    def _find(self, path: str) -> tuple[Route | None, tuple[str, ...]]:
        path = path if path == "/" else path.rstrip("/")
        if (route := self._fixed.get(unquote(path))) is not None:
            return route, ()
        parts = [unquote(part) for part in path.split("/")]
        for template, route in self._templates.get(len(parts), ()):
            pairs = list(zip(template, parts, strict=True))
            if all(name == part or name.startswith("{") for name, part in pairs):
                return route, tuple(part for name, part in pairs if name.startswith("{"))
        return None, ()
