"""OpenAI's endpoints for language models: /v1/models, /v1/completions, /v1/chat/completions.

Every answer is a stream of tokens inside; without `stream` it is collected first. Streams are
chunked, so that a client can tell a broken one from one that has ended.
"""

import asyncio
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cupola.serve.http.messages import Refusal, Request, Response, Sink
from cupola.serve.ipc import frames as wire
from cupola.serve.worker.context import Context
from cupola.serve.worker.runner_connections import Model

T = TypeVar("T", bound="Sampling")
_KINDS = {400: "invalid_request_error", 404: "invalid_request_error", 429: "rate_limit_error"}
_CODES = {404: "model_not_found", 429: "rate_limit_exceeded"}


class Sampling(BaseModel):
    """What both kinds of request share; unknown fields are ignored, as OpenAI's are."""

    model_config = ConfigDict(extra="ignore", strict=True)

    model: str
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=1)
    seed: int | None = None
    stop: str | list[str] | None = None
    n: int = Field(1, ge=1, le=16)
    stream: bool = False
    stream_options: dict[str, Any] | None = None

    def parameters(self) -> dict[str, Any]:
        """What the model is told; the seed makes a broken stream repeatable."""
        stop = [self.stop] if isinstance(self.stop, str) else self.stop
        given = {
            "max_tokens": self.max_completion_tokens or self.max_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": self.top_k,
            "seed": self.seed,
            "stop": stop,
        }
        return {name: value for name, value in given.items() if value is not None}


class CompletionRequest(Sampling):
    """POST /v1/completions."""

    prompt: str | list[str]
    logprobs: int | None = None
    echo: bool = False


class Message(BaseModel):
    """One turn of a chat."""

    model_config = ConfigDict(extra="ignore", strict=True)

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[dict[str, Any]]

    @property
    def text(self) -> str:
        """The text parts, joined."""
        if isinstance(self.content, str):
            return self.content
        return "".join(str(part.get("text", "")) for part in self.content)


class ChatRequest(Sampling):
    """POST /v1/chat/completions."""

    messages: list[Message] = Field(min_length=1)
    logprobs: bool | None = None


@dataclass(frozen=True)
class Form:
    """What differs between the two endpoints."""

    prefix: str
    whole: str
    piece: str
    chat: bool


TEXT = Form("cmpl-", "text_completion", "text_completion", False)
CHAT = Form("chatcmpl-", "chat.completion", "chat.completion.chunk", True)


def error_of(refusal: Refusal) -> dict[str, Any]:
    """A refusal in OpenAI's words."""
    kind = _KINDS.get(refusal.status, "server_error" if refusal.status >= 500 else _KINDS[400])
    return {
        "message": refusal.message,
        "type": kind,
        "param": None,
        "code": _CODES.get(refusal.status),
    }


def models(context: Context, request: Request) -> Response:
    """The models that speak."""
    data = [
        {"id": name, "object": "model", "created": 0, "owned_by": "cupola"}
        for name, versions in context.fleet.models.items()
        if any(model.about.get("task") == "language" for model in versions.values())
    ]
    return Response(200, orjson.dumps({"object": "list", "data": data}))


async def completions(context: Context, request: Request) -> Response:
    wanted = _parse(CompletionRequest, request)
    prompts = [wanted.prompt] if isinstance(wanted.prompt, str) else wanted.prompt
    if not prompts:
        raise Refusal(400, "prompt: expected at least one")
    return await _respond(context, request, wanted, prompts, TEXT)


async def chat(context: Context, request: Request) -> Response:
    wanted = _parse(ChatRequest, request)
    turns = [f"{message.role}: {message.text}\n" for message in wanted.messages]
    return await _respond(context, request, wanted, ["".join(turns) + "assistant:"], CHAT)


def _parse(kind: type[T], request: Request) -> T:
    try:
        return kind.model_validate(orjson.loads(request.body_bytes()))
    except orjson.JSONDecodeError as error:
        raise Refusal(400, f"the body is no JSON: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise Refusal(400, f"{where}: {first['msg']}") from None


async def _respond(
    context: Context, request: Request, wanted: Sampling, prompts: list[str], form: Form
) -> Response:
    model = context.fleet.find(wanted.model)
    if model.about.get("task") != "language":
        raise Refusal(400, f"{wanted.model!r} is no language model")
    choices = [prompt for prompt in prompts for _ in range(wanted.n)]
    answer = Answer(context, request, model, wanted, form)
    if wanted.stream:
        return await answer.streamed(choices)
    return await answer.collected(choices)


class Answer:
    """One answer under way: its id, its form, its count of tokens."""

    def __init__(
        self, context: Context, request: Request, model: Model, wanted: Sampling, form: Form
    ) -> None:
        self.context, self.request, self.model = context, request, model
        self.wanted, self.form = wanted, form
        self.base = {
            "id": form.prefix + context.server.next_id(),
            "created": int(time.time()),
            "model": model.name,
        }
        self.prompt_tokens = self.tokens = 0

    def _tokens(self, prompt: str, index: int) -> AsyncGenerator[dict[str, Any], None]:
        name = next(spec["name"] for spec in self.model.about["inputs"]
                    if spec["datatype"] == "BYTES")  # fmt: skip
        parameters = self.wanted.parameters()
        if getattr(self.wanted, "logprobs", None):
            parameters["logprobs"] = True
        if self.wanted.n > 1 or "seed" not in parameters:
            parameters["seed"] = (parameters.get("seed") or time.time_ns() % 2**31) + index
        document = {
            "inputs": [{"name": name, "datatype": "BYTES", "shape": [1], "data": [prompt]}],
            "parameters": parameters,
        }
        frame = wire.Frame(wire.STREAM, body=orjson.dumps(document))
        return self.context.stream(self.model, self.request, frame)

    # ---- collected

    async def collected(self, prompts: list[str]) -> Response:
        """All choices, whole."""
        choices = await asyncio.gather(*[self._whole(p, n) for n, p in enumerate(prompts)])
        body = {"object": self.form.whole, **self.base, "choices": choices, "usage": self._usage()}
        return Response(200, orjson.dumps(body))

    async def _whole(self, prompt: str, index: int) -> dict[str, Any]:
        text, reason, logprobs = [], None, []
        async for frame in self._tokens(prompt, index):
            data = frame["data"]
            self._count(data)
            text.append(data.get("text", ""))
            reason = data.get("finish_reason") or reason
            logprobs.append(data.get("logprob"))
        whole = "".join(text)
        choice: dict[str, Any] = {"index": index, "finish_reason": reason or "stop"}
        if self.form.chat:
            return choice | {"message": {"role": "assistant", "content": whole}, "logprobs": None}
        wish = getattr(self.wanted, "logprobs", None)
        kept = {"tokens": text, "token_logprobs": logprobs} if wish else None
        echo = prompt if getattr(self.wanted, "echo", False) else ""
        return choice | {"text": echo + whole, "logprobs": kept}

    def _count(self, data: dict[str, Any]) -> None:
        self.tokens += data.get("token_id") is not None
        self.prompt_tokens += data.get("prompt_tokens") or 0

    def _usage(self) -> dict[str, int]:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.tokens,
            "total_tokens": self.prompt_tokens + self.tokens,
        }

    # ---- streamed

    async def streamed(self, prompts: list[str]) -> Response:
        """Server-sent events; a refusal before the first token keeps its own status."""
        merged: asyncio.Queue[Any] = asyncio.Queue()
        feeds = [asyncio.create_task(self._feed(p, n, merged)) for n, p in enumerate(prompts)]
        first = await merged.get()
        if isinstance(first, Refusal):
            _cancel(feeds)
            raise first

        async def write(stream: Sink) -> None:
            try:
                await self._write(stream, first, merged, len(feeds))
            finally:
                _cancel(feeds)

        return Response(
            200, content_type="text/event-stream", stream=write,
            headers=[("Cache-Control", "no-store")],
        )  # fmt: skip

    async def _feed(self, prompt: str, index: int, merged: asyncio.Queue[Any]) -> None:
        tokens = self._tokens(prompt, index)
        try:
            async for frame in tokens:
                await merged.put((index, frame))
        except Refusal as refusal:
            await merged.put(refusal)
        finally:
            await tokens.aclose()

    async def _write(
        self, stream: Sink, item: Any, merged: asyncio.Queue[Any], unfinished: int
    ) -> None:
        begun: set[int] = set()
        while True:
            if isinstance(item, Refusal):  # the status is sent: the error goes into the stream
                await stream.write(_event({"error": error_of(item)}))
                return
            index, frame = item
            self._count(frame["data"])
            await stream.write(_event(self._piece(index, frame, index not in begun)))
            begun.add(index)
            unfinished -= frame["final"]
            if not unfinished:
                break
            item = await merged.get()
        if (self.wanted.stream_options or {}).get("include_usage"):
            usage = {"object": self.form.piece, **self.base, "choices": []}
            await stream.write(_event(usage | {"usage": self._usage()}))
        await stream.write(b"data: [DONE]\n\n")

    def _piece(self, index: int, frame: dict[str, Any], is_first: bool) -> dict[str, Any]:
        data = frame["data"]
        reason = (data.get("finish_reason") or "stop") if frame["final"] else None
        choice: dict[str, Any] = {"index": index, "finish_reason": reason, "logprobs": None}
        text = data.get("text", "")
        if self.form.chat:
            choice["delta"] = ({"role": "assistant"} if is_first else {}) | {"content": text}
        else:
            choice["text"] = text
        return {"object": self.form.piece, **self.base, "choices": [choice]}


def _cancel(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()


def _event(value: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(value) + b"\n\n"
