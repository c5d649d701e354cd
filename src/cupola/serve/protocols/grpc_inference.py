"""Inference over gRPC: ModelInfer, and ModelStreamInfer as Triton has it.

A message is forwarded to the runner unchanged, which parses its tensors. On a stream, requests run
side by side. The answers of models that give one answer a request come in the order of the
requests; those of models that stream may alternate, and the last of a request has the parameter
`triton_final_response`.
"""

import asyncio
import mmap
from contextlib import suppress
from typing import Any

from cupola.errors import CupolaError, InputError
from cupola.serve.grpc import wire
from cupola.serve.grpc.call import MessageQueue, unpack_header
from cupola.serve.grpc.message_reader import Message
from cupola.serve.grpc.messages import message
from cupola.serve.http.messages import HTTPError, Request, Response, ResponseStream
from cupola.serve.ipc import frames
from cupola.serve.ipc.sequence import NAMES, SequenceStep, read_sequence
from cupola.serve.protocols.grpc_chunks import response_of
from cupola.serve.protocols.image_cost import cost_of
from cupola.serve.worker.context import DeferredResponse, Inference, Outcome, WorkerContext
from cupola.serve.worker.runner_connections import Model

SIDE_BY_SIDE = 64  # requests of one stream


def infer(context: WorkerContext, request: Request) -> Outcome:
    """Runs one request on one model, or answers it from the cache."""
    if "content-encoding" in request.headers:
        return _infer_in_steps(context, request)
    model, frame = frame_of(context, request, frames.INFER)
    if context.caches(model):
        return _infer_in_steps(context, request)
    inference = Inference(
        context, model, request, frame, cost_of(request, frame, model.description)
    )
    return DeferredResponse(inference, _respond)


async def _infer_in_steps(context: WorkerContext, request: Request) -> Response:
    await context.decompressor.unpack(request)
    model, frame = frame_of(context, request, frames.INFER)
    cost = cost_of(request, frame, model.description)
    return _respond(await context.infer(model, request, frame, cost))


def _respond(answer: frames.Frame) -> Response:
    if answer.status != 200:
        raise HTTPError(answer.status, answer.extra["error"])
    return Response(200, answer.body)


# ---- the head of a message


def frame_of(context: WorkerContext, request: Request, kind: int) -> tuple[Model, frames.Frame]:
    """The model that a request asks for, and the frame for its runner."""
    data = data_of(request)
    name, version, parameters = _read_head(data)
    model = context.find(request, name, version or None)
    extra: dict[str, Any] = {"format": "grpc"}
    if request.spooled is not None:
        extra["spool"] = str(request.spooled)
    if model.description.get("stateful"):
        step = _sequence_of(data, parameters)
        extra |= {} if step is None else step.entries
    return model, frames.Frame(kind, 0, request.body, extra)


def data_of(request: Request) -> wire.Data:
    """The message, mapped into memory if it is a file."""
    if request.spooled is None:
        return request.body
    with request.spooled.open("rb") as file:
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _read_head(data: wire.Data) -> tuple[str, str, list[tuple[int, int]]]:
    """Name and version of the model, and where the parameters are."""
    name, version, parameters = "", "", []
    for number, start, end in wire.fields(data, 0, len(data)):
        if number == 1:
            name = wire.text(data, start, end)
        elif number == 2:
            version = wire.text(data, start, end)
        elif number == 4:
            parameters.append((start, end))
    return name, version, parameters


def _sequence_of(data: wire.Data, parameters: list[tuple[int, int]]) -> SequenceStep | None:
    """The step of a sequence; None without one."""
    found: dict[str, Any] = {}
    for start, end in parameters:
        entry = {number: span for number, *span in wire.fields(data, start, end)}
        name = wire.text(data, *entry[1]) if 1 in entry and 2 in entry else ""
        if name in NAMES:
            value = message("InferParameter").FromString(bytes(data[slice(*entry[2])]))
            chosen = value.WhichOneof("parameter_choice")
            found[name] = getattr(value, chosen) if chosen else None
    return read_sequence(found)


# ---- streams


def stream_infer(context: WorkerContext, request: Request, messages: MessageQueue) -> Outcome:
    """Answers the requests of a stream. An error of one does not end the stream."""
    return Response(200, stream=InferenceStream(context, request, messages).run)


class InferenceStream:
    """One call of ModelStreamInfer."""

    def __init__(self, context: WorkerContext, request: Request, messages: MessageQueue) -> None:
        self._context, self._request, self._messages = context, request, messages
        self._tasks: set[asyncio.Task[None]] = set()
        self._last: asyncio.Task[None] | None = None  # of a request with one answer

    async def run(self, stream: ResponseStream) -> None:
        """Answers until the client has sent its last request."""
        loop = asyncio.get_running_loop()
        try:
            async for found in self._messages:
                self._messages.in_progress += 1
                task = loop.create_task(self._answer(self._request_of(found), stream, self._last))
                self._last = task
                self._tasks.add(task)
                task.add_done_callback(self._on_done)
                if len(self._tasks) >= SIDE_BY_SIDE:
                    await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
            if self._tasks:
                await asyncio.wait(self._tasks)
        finally:
            for task in self._tasks:
                task.cancel()

    def _on_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._messages.in_progress -= 1
        if task is self._last:
            self._last = None

    def _request_of(self, found: Message) -> Request:
        whole = self._request
        request = Request(
            whole.method, whole.path, "", dict(whole.headers), whole.id, _now(), whole.peer,
            found.body, found.spooled, operations=whole.operations, grpc=True,
            subject=whole.subject, key=whole.key, trace=whole.trace,
        )  # fmt: skip
        try:
            unpack_header(request, found)
        except HTTPError:
            request.headers["content-encoding"] = "none"  # which is refused in its turn
        return request

    async def _answer(
        self, request: Request, stream: ResponseStream, before: "asyncio.Task[None] | None"
    ) -> None:
        """Answers one request; a single answer waits for that of the request `before`."""
        try:
            await self._try_to_answer(request, stream, before)
        except (HTTPError, CupolaError) as error:
            text = error.message if isinstance(error, HTTPError) else str(error)
            await _wait_for(before)
            await stream.write(_error(request, text))
        finally:
            request.release()

    async def _try_to_answer(
        self, request: Request, stream: ResponseStream, before: "asyncio.Task[None] | None"
    ) -> None:
        context = self._context
        if context.access is not None:
            context.access.repeat(request)
        if "content-encoding" in request.headers:
            await context.decompressor.unpack(request)
        model, frame = frame_of(context, request, frames.INFER)
        if model.description.get("streams"):
            frame.kind = frames.STREAM
            request_id = _id_of(request)
            async for chunk in context.stream(model, request, frame):
                await stream.write(_wrap(response_of(model, request_id, chunk)))
            return
        cost = cost_of(request, frame, model.description)
        answer = await context.infer(model, request, frame, cost)
        if answer.status != 200:
            raise HTTPError(answer.status, answer.extra["error"])
        await _wait_for(before)
        await stream.write(_wrap(bytes(answer.body)))


async def _wait_for(before: "asyncio.Task[None] | None") -> None:
    if before is not None and not before.done():
        await asyncio.wait([before])


def _now() -> float:
    return asyncio.get_running_loop().time()


def _id_of(request: Request) -> str:
    data, found = data_of(request), ""
    for number, start, end in wire.fields(data, 0, len(data)):
        if number == 3:
            found = wire.text(data, start, end)
    return found


def _wrap(response: bytes) -> bytes:
    """ModelStreamInferResponse with a serialized ModelInferResponse."""
    return b"".join(wire.field(2, response))


def _error(request: Request, text: str) -> bytes:
    """ModelStreamInferResponse with an error, and the id of the request that failed."""
    answer = message("ModelStreamInferResponse")(error_message=text)
    with suppress(InputError, OSError, ValueError):
        answer.infer_response.id = _id_of(request)
    data: bytes = answer.SerializeToString()
    return data
