"""Inference over the Open Inference Protocol v2.

Bodies are forwarded to the runner unchanged, which decodes the tensors. Only headers are validated
here.
"""

from collections.abc import Awaitable
from functools import partial
from typing import Any
from urllib.parse import parse_qsl

import orjson

from cupola.serve.http.compression import SMALL, compress
from cupola.serve.http.messages import (
    HTTPError,
    Request,
    Response,
    ResponseStream,
    server_sent_event,
)
from cupola.serve.ipc import frames
from cupola.serve.protocols.image_cost import cost_of
from cupola.serve.protocols.v2_sequences import sequence_of
from cupola.serve.worker.context import DeferredResponse, Inference, Outcome, WorkerContext
from cupola.serve.worker.dispatcher import admit
from cupola.serve.worker.runner_connections import Model

JSON_LINES, EVENTS = "application/x-ndjson", "text/event-stream"
_IMAGES = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"RIFF", b"BM", b"II*\0", b"MM\0*")


def infer(
    context: WorkerContext, request: Request, name: str, version: str | None = None
) -> Outcome:
    """Runs one request on one model, or answers it from the cache."""
    model = context.find(request, name, version)
    if context.caches(model) or "content-encoding" in request.headers:
        return _infer_in_steps(context, request, model)
    frame = frame_of(request, frames.INFER, model)
    inference = Inference(
        context, model, request, frame, cost_of(request, frame, model.description)
    )
    return DeferredResponse(inference, partial(_respond, request))


async def _infer_in_steps(context: WorkerContext, request: Request, model: Model) -> Response:
    await _unpack(context, model, request)
    frame = frame_of(request, frames.INFER, model)
    cost = cost_of(request, frame, model.description)
    response = _respond(request, await context.infer(model, request, frame, cost))
    return response if isinstance(response, Response) else await response


async def _unpack(context: WorkerContext, model: Model, request: Request) -> None:
    """Decompresses the body, for a model that may be asked at all."""
    admit(model)
    await context.decompressor.unpack(request)


def frame_of(request: Request, kind: int, model: Model | None = None) -> frames.Frame:
    """The frame for the runner, with the format and the location of the body.

    For a stateful model it names the sequence. HTTPError 400 for an id or a flag that is none.
    """
    headers = request.headers
    extra: dict[str, Any] = {}
    json_size = headers.get("inference-header-content-length")
    if request.spooled is not None:
        extra["spool"] = str(request.spooled)
    content_type = headers.get("content-type", "").lower()
    if json_size is None and not content_type.startswith("application/json"):
        body_format = format_of(content_type, _start_of(request))
        if body_format != "v2":
            extra["format"] = body_format
        if body_format == "multipart":
            extra["content_type"] = headers["content-type"]
    if request.query:
        extra["query"] = dict(parse_qsl(request.query))
    size = -1 if json_size is None else _parse_size(json_size)
    if model is not None and model.description.get("stateful"):
        step = sequence_of(request, extra, size)
        extra |= {} if step is None else step.entries
    return frames.Frame(kind, 0, request.body, extra, size)


def _parse_size(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        raise HTTPError(400, f"bad Inference-Header-Content-Length {text!r}")
    return int(text)


def _start_of(request: Request) -> bytes:
    if request.spooled is None:
        return bytes(request.body[:16])
    with request.spooled.open("rb") as file:
        return file.read(16)


def format_of(content_type: str, start: bytes) -> str:
    """v2, image, npy or multipart: from the content type, else from the first bytes.

    With the size of a JSON part, or as JSON, a body is v2 anyway.
    """
    if content_type.startswith("multipart/form-data"):
        return "multipart"
    if content_type.startswith("image/"):
        return "image"
    if "npy" in content_type or start.startswith(b"\x93NUMPY"):
        return "npy"
    return "image" if start.startswith(_IMAGES) else "v2"


def _respond(request: Request, answer: frames.Frame) -> Response | Awaitable[Response]:
    """The runner's answer as a response, compressed if the client accepts it."""
    if answer.status != 200:
        raise HTTPError(answer.status, answer.extra["error"])
    response = Response(200, answer.body)
    if answer.json_size >= 0:
        response.content_type = "application/octet-stream"
        response.headers.append(("Inference-Header-Content-Length", str(answer.json_size)))
    accepted = request.headers.get("accept-encoding")
    if accepted is None or len(answer.body) < SMALL:
        return response
    return _compressed(response, accepted)


async def _compressed(response: Response, accepted: str) -> Response:
    body, encoding = await compress(bytes(response.body), accepted)
    if encoding is not None:
        response.body = body
        response.headers += [("Content-Encoding", encoding), ("Vary", "Accept-Encoding")]
    return response


async def generate_stream(
    context: WorkerContext, request: Request, name: str, version: str | None = None
) -> Response:
    """A streamed answer: server-sent events, or JSON lines if the client accepts those."""
    model = context.find(request, name, version)
    await _unpack(context, model, request)
    as_lines = JSON_LINES in request.headers.get("accept", "")
    encode = _json_line if as_lines else server_sent_event
    chunks = context.stream(model, request, frame_of(request, frames.STREAM))
    first = await anext(chunks, None)  # an error before the first chunk has its own status

    async def write(stream: ResponseStream) -> None:
        chunk = first
        try:
            while chunk is not None:
                await stream.write(encode(_event(model, chunk)))
                chunk = await anext(chunks, None)
        except HTTPError as error:  # the status has been sent, so the error goes into the stream
            await stream.write(encode({"error": error.message}))
        finally:
            await chunks.aclose()

    return Response(
        200, content_type=JSON_LINES if as_lines else EVENTS, stream=write,
        headers=[("Cache-Control", "no-store")],
    )  # fmt: skip


def _event(model: Model, chunk: dict[str, Any]) -> dict[str, Any]:
    names = {"model_name": model.name, "model_version": model.version}
    return {**names, **chunk["data"], "final": chunk["final"]}


def _json_line(value: dict[str, Any]) -> bytes:
    return orjson.dumps(value) + b"\n"
