"""The start of each call of gRPC in a worker."""

from collections.abc import Mapping

from cupola.serve.grpc import status
from cupola.serve.grpc.call import Call, CallServer, Method, plain_refusal
from cupola.serve.http.messages import HTTPError, Request, Response
from cupola.serve.http.server import Server
from cupola.serve.http2.connection import Http2Connection
from cupola.serve.http2.stream import Stream


class GrpcService:
    """Opens the calls of one worker."""

    def __init__(self, server: Server, app: CallServer, methods: Mapping[str, Method]) -> None:
        self._server, self._app, self._methods = server, app, methods

    def open(self, stream: Stream, connection: Http2Connection) -> "Call | Refused":
        """The handler for a new stream."""
        head = stream.head
        headers = dict(head.headers)
        server = self._server
        request = Request(
            head.method, head.path, "", headers,
            headers.get("x-request-id", "")[:128] or server.next_id(), stream.began_at,
            connection.peer,
            raw_path=head.path, operations=connection.operations, grpc=True,
            subject=connection.subject,
        )  # fmt: skip
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if head.method != "POST" or kind not in ("application/grpc", "application/grpc+proto"):
            code = b"405" if head.method != "POST" else b"415"
            plain_refusal(stream, code)
            server.finished(request, Response(int(code)), 0)
            return Refused()
        method = self._methods.get(head.path)
        if method is None:
            error = HTTPError(501, f"unknown method {head.path[:200]}")
            stream.finish(
                status.head_with(request.id)
                + status.trailers(error.status, error.message, error.headers)
            )
            server.finished(request, Response(501), 0)
            return Refused()
        call = Call(server, self._app, stream, request, method)
        call.start()
        return call


class Refused:
    """Ignores the body of a request that has been answered."""

    began_at = 0.0
    expects_more = False
    received = 0

    def feed(self, data: bytes) -> None:
        """Ignores it."""

    def end(self) -> None:
        """Ignores it."""

    def cancel(self) -> None:
        """Nothing is in progress."""

    def time_out(self) -> None:
        """Never called."""

    def drain(self, seconds: float) -> None:
        """Nothing is in progress."""
