"""A server in this process, for tests of connections alone."""

from pathlib import Path

from cupola.serve.http.messages import HTTPError, Request, Response
from cupola.serve.http.server import Reply, Server
from cupola.serve.settings.settings import Settings


class Answering(Server):
    """Answers each request at once; `paths` has them in order."""

    def __init__(self, settings: Settings, spool: Path) -> None:
        super().__init__(settings, spool)
        self.paths: list[str] = []

    def check_route(self, method: str, path: str) -> None:
        """All are known."""

    def answer(self, request: Request, reply: Reply) -> None:
        self.paths.append(request.path)
        reply(request, Response(200, b"{}"))

    def refusal(self, error: HTTPError, request: Request) -> Response:
        return Response(error.status, error.message.encode())

    def finished(self, request: Request, response: Response, sent: int) -> None:
        """Not counted."""
