"""The deployment that takes HTTP requests and sends each to a replica of the models.

A request whose replica dies before its answer has begun is sent to another one, as a worker of
`cupola serve` does when a runner dies.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import unquote

import orjson
from ray.exceptions import ActorDiedError, ActorUnavailableError
from ray.serve.exceptions import (
    BackPressureError,
    DeploymentUnavailableError,
    ReplicaUnavailableError,
)
from ray.serve.handle import DeploymentHandle
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from cupola.errors import did_you_mean
from cupola.ray.messages import Call, Head
from cupola.serve.http.messages import HTTPError
from cupola.serve.routes import ROUTER

LOST = (ActorDiedError, ActorUnavailableError, ReplicaUnavailableError, DeploymentUnavailableError)
DEATHS = 3  # of its replicas after which a request is not sent to another one: it may be the cause
PAUSE = 0.1  # seconds before the second attempt; twice as long before each further one
HOP_BY_HOP = ("connection", "keep-alive", "transfer-encoding", "upgrade")


class Ingress:
    """Forwards requests to `models`. `timeout`: seconds in which a lost request is tried again.

    names: the models, if they are multiplexed; then each request must name one of them.
    """

    def __init__(
        self, models: DeploymentHandle, timeout: float, max_body: int, names: Sequence[str] = ()
    ) -> None:
        self.models = models.options(stream=True, method_name="answer")
        self.timeout, self.max_body, self.names = timeout, max_body, list(names)
        self.retried = 0

    async def __call__(self, request: Request) -> Response:
        """The response to an HTTP request."""
        path = path_of(request.scope)
        try:
            call = await self._read(request, path)
            handle = self.models
            if self.names:
                if (known := self._about_all(call)) is not None:
                    return known
                handle = handle.options(multiplexed_model_id=self._model_of(call))
            items = self._answer(handle, call)
            head = await anext(items)
        except HTTPError as error:
            return _error(path, error)
        assert isinstance(head, Head)
        fields = [*head.headers, ("Content-Type", head.content_type)]
        response: Response
        if head.streamed:
            response = StreamingResponse(items, head.status)  # type: ignore[arg-type]
        else:
            await items.aclose()
            response = Response(head.body, head.status)
            fields.append(("Content-Length", str(len(head.body))))
        response.raw_headers = [
            (name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in fields
        ]
        return response

    async def _read(self, request: Request, path: str) -> Call:
        """The request with its body; HTTPError 413 if it is too large."""
        body = bytearray()
        async for piece in request.stream():
            body += piece
            if len(body) > self.max_body:
                raise HTTPError(413, f"body over {self.max_body} bytes")
        headers: dict[str, str] = {}
        for name, value in request.headers.items():
            if name not in HOP_BY_HOP:
                headers[name] = f"{headers[name]}, {value}" if name in headers else value
        peer = request.client.host if request.client else ""
        return Call(
            request.method,
            path,
            request.scope["query_string"].decode("latin-1"),
            headers,
            bytes(body),
            peer,
        )

    async def _answer(
        self, handle: DeploymentHandle, call: Call
    ) -> AsyncGenerator[Head | bytes, None]:
        """The items of the answer; HTTPError if no replica gives one in time."""
        deadline, pause, deaths = time.monotonic() + self.timeout, PAUSE, 0
        while True:
            begun = False
            try:
                async for item in handle.remote(call):
                    begun = True
                    yield item
                return
            except BackPressureError as error:
                raise HTTPError(429, str(error), [("Retry-After", "1")]) from None
            except LOST as error:
                if begun:  # the client has seen a part
                    raise
                deaths += isinstance(error, ActorDiedError)
                if deaths == DEATHS:
                    raise HTTPError(500, f"this request lost {deaths} replicas") from None
                if time.monotonic() + pause > deadline:
                    text = f"no replica answered: {type(error).__name__}"
                    raise HTTPError(503, text, [("Retry-After", "1")]) from None
            self.retried += 1
            await asyncio.sleep(pause)
            pause = min(2 * pause, 1.0)

    # ---- multiplexed models

    def _model_of(self, call: Call) -> str:
        """The name of the model in a path of the protocol v2, or in the body of OpenAI's API."""
        parts = call.path.strip("/").split("/")
        name: Any = None
        if parts[:2] in (["v2", "models"], ["v1", "models"]) and len(parts) > 2:
            name = unquote(parts[2])
        elif parts[0] == "v1" and call.body:
            with suppress(ValueError, AttributeError):
                name = orjson.loads(call.body).get("model")
        if name in self.names:
            return str(name)
        if name is None:
            raise HTTPError(404, f"{call.path}: name a model; there are {self.names}")
        raise HTTPError(404, f"unknown model {name!r:.100}{did_you_mean(str(name), self.names)}")

    def _about_all(self, call: Call) -> Response | None:
        """The answer to a question about all models, which no replica holds."""
        if call.path.startswith("/v2/health/"):
            return _json({call.path.rpartition("/")[2]: True})
        if call.path in ("/", "/health"):
            return _json({"models": self.names})
        if call.path == "/v1/models":
            models = [{"id": name, "object": "model", "owned_by": "cupola"} for name in self.names]
            return _json({"object": "list", "data": models})
        if call.path == "/v2/repository/index":
            return _json([{"name": name, "state": "READY"} for name in self.names])
        return None


def path_of(scope: Mapping[str, Any]) -> str:
    """The path as it was sent, below the route prefix of the application."""
    raw: bytes = scope.get("raw_path") or scope["path"].encode()
    path = raw.decode("latin-1").partition("?")[0]
    root: str = scope.get("root_path", "").rstrip("/")
    return (path[len(root) :] or "/") if root and path.startswith(root) else path


def _json(value: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(value), status, media_type="application/json")


def _error(path: str, error: HTTPError) -> Response:
    """An error in the format of the path's protocol."""
    response = _json(ROUTER.error_body(path, error), error.status)
    response.headers.update(dict(error.headers))
    return response
