"""One completion in progress: several choices, collected or streamed."""

import asyncio
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

import orjson

from cupola.serve.http.messages import (
    HTTPError,
    Request,
    Response,
    ResponseStream,
    json_response,
    server_sent_event,
)
from cupola.serve.ipc import frames
from cupola.serve.protocols.openai_schemas import GenerationRequest, error_details
from cupola.serve.worker.context import WorkerContext
from cupola.serve.worker.runner_connections import Model


@dataclass(frozen=True)
class CompletionFormat:
    """The differences between the two endpoints. `object`, `chunk_object`: names in answers."""

    id_prefix: str
    object: str
    chunk_object: str
    is_chat: bool


TEXT = CompletionFormat("cmpl-", "text_completion", "text_completion", False)
CHAT = CompletionFormat("chatcmpl-", "chat.completion", "chat.completion.chunk", True)


class Completion:
    """The answer to one request, with its id and its token counts."""

    def __init__(
        self,
        context: WorkerContext,
        request: Request,
        model: Model,
        body: GenerationRequest,
        form: CompletionFormat,
    ) -> None:
        self.context, self.request, self.model = context, request, model
        self.body, self.form = body, form
        self.base = {
            "id": form.id_prefix + context.server.next_id(),
            "created": int(time.time()),
            "model": model.name,
        }
        self.prompt_tokens = self.tokens = 0

    def _tokens(self, prompt: str, index: int) -> AsyncGenerator[dict[str, Any], None]:
        """The chunks of one choice. A fixed seed makes the stream repeatable after a crash."""
        inputs = self.model.description["inputs"]
        name = next(spec["name"] for spec in inputs if spec["datatype"] == "BYTES")
        parameters = self.body.parameters()
        if getattr(self.body, "logprobs", None):
            parameters["logprobs"] = True
        if self.body.n > 1 or "seed" not in parameters:
            parameters["seed"] = (parameters.get("seed") or time.time_ns() % 2**31) + index
        document = {
            "inputs": [{"name": name, "datatype": "BYTES", "shape": [1], "data": [prompt]}],
            "parameters": parameters,
        }
        frame = frames.Frame(frames.STREAM, body=orjson.dumps(document))
        return self.context.stream(self.model, self.request, frame)

    def _count(self, data: dict[str, Any]) -> None:
        self.tokens += data.get("token_id") is not None
        self.prompt_tokens += data.get("prompt_tokens") or 0

    def _usage(self) -> dict[str, int]:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.tokens,
            "total_tokens": self.prompt_tokens + self.tokens,
        }

    # ---- collected

    async def collect(self, prompts: list[str]) -> Response:
        """One response with all choices."""
        choices = await asyncio.gather(*[self._choice(p, n) for n, p in enumerate(prompts)])
        answer = {"object": self.form.object, **self.base, "choices": choices}
        return json_response(answer | {"usage": self._usage()})

    async def _choice(self, prompt: str, index: int) -> dict[str, Any]:
        texts, reason, logprobs = [], None, []
        async for chunk in self._tokens(prompt, index):
            data = chunk["data"]
            self._count(data)
            texts.append(data.get("text", ""))
            reason = data.get("finish_reason") or reason
            logprobs.append(data.get("logprob"))
        text = "".join(texts)
        choice: dict[str, Any] = {"index": index, "finish_reason": reason or "stop"}
        if self.form.is_chat:
            return choice | {"message": {"role": "assistant", "content": text}, "logprobs": None}
        wants_logprobs = getattr(self.body, "logprobs", None)
        kept = {"tokens": texts, "token_logprobs": logprobs} if wants_logprobs else None
        echo = prompt if getattr(self.body, "echo", False) else ""
        return choice | {"text": echo + text, "logprobs": kept}

    # ---- streamed

    async def stream(self, prompts: list[str]) -> Response:
        """Server-sent events. An error before the first token has its own status."""
        merged: asyncio.Queue[Any] = asyncio.Queue()
        feeds = [asyncio.create_task(self._feed(p, n, merged)) for n, p in enumerate(prompts)]
        first = await merged.get()
        if isinstance(first, HTTPError):
            _cancel(feeds)
            raise first

        async def write(stream: ResponseStream) -> None:
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
            async for chunk in tokens:
                await merged.put((index, chunk))
        except HTTPError as error:
            await merged.put(error)
        finally:
            await tokens.aclose()

    async def _write(
        self, stream: ResponseStream, item: Any, merged: asyncio.Queue[Any], unfinished: int
    ) -> None:
        started: set[int] = set()
        while True:
            if isinstance(item, HTTPError):  # the status has been sent already
                await stream.write(server_sent_event({"error": error_details(item)}))
                return
            index, chunk = item
            self._count(chunk["data"])
            await stream.write(server_sent_event(self._event(index, chunk, index not in started)))
            started.add(index)
            unfinished -= chunk["final"]
            if not unfinished:
                break
            item = await merged.get()
        if (self.body.stream_options or {}).get("include_usage"):
            usage = {"object": self.form.chunk_object, **self.base, "choices": []}
            await stream.write(server_sent_event(usage | {"usage": self._usage()}))
        await stream.write(b"data: [DONE]\n\n")

    def _event(self, index: int, chunk: dict[str, Any], is_first: bool) -> dict[str, Any]:
        data = chunk["data"]
        reason = (data.get("finish_reason") or "stop") if chunk["final"] else None
        choice: dict[str, Any] = {"index": index, "finish_reason": reason, "logprobs": None}
        text = data.get("text", "")
        if self.form.is_chat:
            choice["delta"] = ({"role": "assistant"} if is_first else {}) | {"content": text}
        else:
            choice["text"] = text
        return {"object": self.form.chunk_object, **self.base, "choices": [choice]}


def _cancel(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
