"""The application of a worker: calls handlers, turns exceptions into responses, writes the log."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial

import orjson

from cupola.errors import CupolaError
from cupola.serve.access.control import AccessControl
from cupola.serve.generation import Generation
from cupola.serve.grpc.call import Method
from cupola.serve.http.compression import Decompressor
from cupola.serve.http.cors import CORS
from cupola.serve.http.forwarded import TrustedProxies
from cupola.serve.http.messages import HTTPError, Request, Response
from cupola.serve.http.routing import Handler, Router
from cupola.serve.http.server import Reply, Server, Work
from cupola.serve.ipc import paths
from cupola.serve.ipc.frames import Frame
from cupola.serve.worker.access_log import format_line
from cupola.serve.worker.context import DeferredResponse, Outcome, WorkerContext
from cupola.serve.worker.metrics import Metrics
from cupola.serve.worker.model_directory import ModelDirectory
from cupola.serve.worker.telemetry import WorkerTelemetry


class Application(Server):
    """Answers requests and writes the access log."""

    def __init__(
        self,
        generation: Generation,
        directory: ModelDirectory,
        metrics: Metrics,
        router: Router,
    ) -> None:
        super().__init__(generation.settings, generation.spool)
        from cupola.serve.cache.response_cache import ResponseCache  # SQLite: not before the fork

        settings = generation.settings
        cache = (
            ResponseCache(settings.cache_path, settings.cache_max_entry, settings.cache_max_age)
            if settings.cache_path
            else None
        )
        self.generation = generation
        self.router = router
        self.cors = CORS(settings) if settings.cors_origins else None
        self.proxies = TrustedProxies(settings.trusted_proxies)
        decompressor = Decompressor(settings.max_body, settings.shm_threshold, self.new_spool_path)
        self.context = WorkerContext(
            generation, directory, self, router, metrics, cache, decompressor
        )
        self.access: AccessControl | None = None
        if AccessControl.is_needed(settings):
            folder = generation.metrics
            self.access = AccessControl(settings, folder, directory.slot, self.proxies)
            self.context.access = self.access
        self.telemetry: WorkerTelemetry | None = None
        if settings.otel_endpoint:
            connections = self.connections
            self.telemetry = metrics.telemetry = WorkerTelemetry(
                settings, generation.log, directory.all, lambda: len(connections)
            )
        self._tasks: set[asyncio.Task[None]] = set()

    def check_route(self, method: str, path: str) -> None:
        """HTTPError 404 or 405 if there is no such route."""
        self.router.match(method, path)

    def answer(self, request: Request, reply: Reply) -> Work | None:
        """Calls the handler of the request; an exception becomes an error response."""
        try:
            if self.cors is not None:
                reply = partial(self.cors.reply, reply)
                if (preflight := self.cors.preflight(request)) is not None:
                    reply(request, preflight)
                    return None
            route, arguments = self.router.route(
                request.method, request.raw_path, request.operations
            )
            if self.telemetry is not None and not route.public:
                self.telemetry.begin(request, f"{route.method} {route.path}")
                reply = partial(_reply_traced, reply)
            if self.access is not None and not route.public:
                self._admit(request, route.operations)
            outcome = route.handler(self.context, request, *arguments)
        except Exception as error:
            outcome = self._exception_response(request, error)
        return self._settle(request, reply, outcome)

    def _admit(self, request: Request, operations: bool) -> None:
        """HTTPError if the client may not send this, or sends too much."""
        assert self.access is not None
        self.access.limit_client(request)
        self._authenticate(request, operations)
        self.access.limit_key(request)

    def _authenticate(self, request: Request, operations: bool) -> None:
        """HTTPError 401 or 403; 503 after a reload, since this worker does not know new keys."""
        assert self.access is not None
        try:
            self.access.authenticate(request, operations=operations)
        except HTTPError as error:
            if error.status == 401 and self._is_replaced():
                text = "the server is being reloaded; send the request again"
                raise HTTPError(503, text, [("Retry-After", "1")]) from None
            raise

    def _is_replaced(self) -> bool:
        """Whether a newer generation serves. The signal to drain may still be on its way."""
        newest = paths.read_status(self.generation.home.parent).get("generation", 0)
        return self.draining or newest > self.generation.number

    def admit_call(self, request: Request, method: Method) -> None:
        """The same for a call of gRPC, whose message has not arrived."""
        if self.access is not None and not method.public:
            self._admit(request, method.operations)

    def check_large_body(self, request: Request) -> None:
        """HTTPError 401 or 403 if a request is not to be answered, before its body is stored."""
        if self.access is not None:
            route, _ = self.router.route(request.method, request.raw_path, request.operations)
            if not route.public:
                self._authenticate(request, route.operations)

    def call(self, request: Request, reply: Reply, handler: Handler, public: bool) -> Work | None:
        """Calls the handler of a call of gRPC; an exception becomes an error response."""
        try:
            if self.telemetry is not None and not public:
                self.telemetry.begin(request, request.path[1:])
            outcome = handler(self.context, request)
        except Exception as error:
            outcome = self._exception_response(request, error)
        return self._settle(request, reply, outcome)

    def _settle(self, request: Request, reply: Reply, outcome: Outcome) -> Work | None:
        if isinstance(outcome, Response):
            reply(request, outcome)
            return None
        if isinstance(outcome, DeferredResponse):
            outcome.inference.deliver = partial(self._on_answer, request, reply, outcome.then)
            return outcome.inference
        task = self.loop.create_task(self._wait(request, reply, outcome))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _on_answer(
        self, request: Request, reply: Reply, then: Callable[[Frame], Outcome], answer: Frame
    ) -> None:
        try:
            outcome = then(answer)
        except Exception as error:
            outcome = self._exception_response(request, error)
        self._settle(request, reply, outcome)

    async def _wait(self, request: Request, reply: Reply, pending: Awaitable[Response]) -> None:
        try:
            response = await pending
        except Exception as error:
            response = self._exception_response(request, error)
        reply(request, response)

    def _exception_response(self, request: Request, error: Exception) -> Response:
        if isinstance(error, HTTPError):
            return self.error_response(error, request)
        if isinstance(error, CupolaError):
            return self.error_response(HTTPError(400, str(error)), request)
        self.log_failure(request, error)
        return self.error_response(HTTPError(500, "internal error"), request)

    def log_failure(self, request: Request, error: Exception) -> None:
        """Logs an unexpected exception."""
        self.generation.log("error", f"request {request.id} {request.path}: {error!r}")

    def error_response(self, error: HTTPError, request: Request) -> Response:
        """The response for an HTTPError, in the format of the path's protocol."""
        if request.grpc:
            return Response(error.status, error.message.encode(), error.headers)
        body = orjson.dumps(self.router.error_body(request.path, error))
        return Response(error.status, body, error.headers)

    def refusal(self, error: HTTPError, request: Request) -> Response:
        """The response to a request that cannot be parsed, which a browser's page may read."""
        response = self.error_response(error, request)
        if self.cors is not None:
            self.cors.add_fields(request, response)
        return response

    def finished(self, request: Request, response: Response, sent: int) -> None:
        """Counts and logs a request."""
        if self.access is not None:
            self.access.release(request)
        if self.telemetry is not None:
            self.telemetry.finish(request, response)
        self.context.metrics.count_request(response.status)
        if self.generation.access_log is not None:
            seconds = time.monotonic() - request.arrived
            form = self.settings.access_log_format
            line = format_line(request, response.status, sent, seconds, form, self.proxies)
            self.generation.access_log.write(line)

    def connection_closed(self) -> None:
        self.context.metrics.connections.set(len(self.connections))


def _reply_traced(reply: Reply, request: Request, response: Response) -> None:
    """Replies with the request's place in its trace."""
    if request.trace is not None:
        response.headers = [*response.headers, ("traceparent", request.trace.header)]
    reply(request, response)
