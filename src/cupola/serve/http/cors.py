"""Cross-origin resource sharing: which other web sites' pages may read the server's answers.

Source: https://fetch.spec.whatwg.org/#http-cors-protocol
"""

from cupola.serve.http.messages import HTTPError, Request, Response
from cupola.serve.http.server import Reply
from cupola.serve.settings.settings import Settings

EXPOSED = "X-Request-Id, Retry-After, Inference-Header-Content-Length"
_VARY = "Origin, Access-Control-Request-Method, Access-Control-Request-Headers"


class CORS:
    """Answers preflight requests and adds the header fields to all answers."""

    def __init__(self, settings: Settings) -> None:
        self._origins = frozenset(settings.cors_origins)
        self._any = "*" in self._origins
        self._credentials = settings.cors_credentials
        self._preflight = [
            ("Access-Control-Allow-Methods", ", ".join(settings.cors_methods)),
            ("Access-Control-Allow-Headers", ", ".join(settings.cors_headers)),
            ("Access-Control-Max-Age", str(settings.cors_max_age)),
        ]

    def allows(self, origin: str) -> bool:
        """Whether pages of that origin may read answers."""
        return self._any or origin.lower() in self._origins

    def preflight(self, request: Request) -> Response | None:
        """The answer to a preflight request, None for others; HTTPError 403 for other origins."""
        wanted = request.headers.get("access-control-request-method")
        if request.method != "OPTIONS" or wanted is None or "origin" not in request.headers:
            return None
        if not self.allows(request.headers["origin"]):
            raise HTTPError(403, f"origin {request.headers['origin']!r} is not in `cors_origins`")
        return Response(204, headers=[*self._preflight])

    def reply(self, reply: Reply, request: Request, response: Response) -> None:
        """Replies with the header fields for the request's origin."""
        self.add_fields(request, response)
        reply(request, response)

    def add_fields(self, request: Request, response: Response) -> None:
        """Adds the header fields for the request's origin."""
        response.headers = [*response.headers, *self._fields(request)]

    def _fields(self, request: Request) -> list[tuple[str, str]]:
        fields = []
        if not self._any:  # the answer depends on the origin, which caches must know
            fields.append(("Vary", _VARY if request.method == "OPTIONS" else "Origin"))
        origin = request.headers.get("origin")
        if origin is None or not self.allows(origin):
            return fields
        fields.append(("Access-Control-Allow-Origin", "*" if self._any else origin))
        if self._credentials:
            fields.append(("Access-Control-Allow-Credentials", "true"))
        if request.method != "OPTIONS":
            fields.append(("Access-Control-Expose-Headers", EXPOSED))
        return fields
