"""gRPC's health checking: "" is the server, other names its services and models."""

import asyncio
from typing import Any

from cupola.serve.grpc.messages import HEALTH, INFERENCE, message
from cupola.serve.http.messages import HTTPError, Request, Response, ResponseStream
from cupola.serve.worker.context import WorkerContext

INTERVAL = 0.2  # seconds between two looks of a client that watches
_SERVING, _NOT_SERVING, _UNKNOWN = 1, 2, 3
SERVICES = ("", INFERENCE)


def _status(context: WorkerContext, service: str) -> int | None:
    """SERVING or NOT_SERVING; None for an unknown service."""
    directory = context.directory
    if service in SERVICES:
        return _SERVING if directory.ready and not context.leaving else _NOT_SERVING
    versions = directory.models.get(service)
    if not versions:
        return None
    ready = any(directory.is_ready(model) for model in versions.values())
    return _SERVING if ready and not context.leaving else _NOT_SERVING


def check(context: WorkerContext, request: Request, asked: Any) -> Any:
    """The status of one service; HTTPError 404 if it is unknown."""
    found = _status(context, asked.service)
    if found is None:
        raise HTTPError(404, f"unknown service {asked.service!r}")
    return _response(found)


def list_services(context: WorkerContext, request: Request, asked: Any) -> Any:
    """The status of all services and models."""
    answer = message(f"{HEALTH.rpartition('.')[0]}.HealthListResponse")()
    for name in (*SERVICES, *context.directory.models):
        answer.statuses[name].status = _status(context, name) or _UNKNOWN
    return answer


def watch(context: WorkerContext, request: Request, asked: Any) -> Response:
    """The status of a service, now and whenever it changes."""

    async def write(stream: ResponseStream) -> None:
        last = None
        while True:
            found = _status(context, asked.service) or _UNKNOWN
            if found != last:
                await stream.write(_response(found).SerializeToString())
                last = found
            if context.server.draining and not context.leaving:
                raise HTTPError(503, "the server is being reloaded; watch again")
            await asyncio.sleep(INTERVAL)

    return Response(200, stream=write)


def _response(found: int) -> Any:
    return message(f"{HEALTH.rpartition('.')[0]}.HealthCheckResponse")(status=found)
