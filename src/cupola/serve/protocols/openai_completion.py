"""One completion in progress: several choices, collected or streamed."""

import asyncio
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
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
from cupola.serve.protocols.openai_errors import ParameterError
from cupola.serve.protocols.openai_logprobs import LogprobTrack, chat_logprobs, text_logprobs
from cupola.serve.protocols.openai_schemas import GenerationRequest, error_details
from cupola.serve.protocols.openai_tools import CallParser
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


AT_ONCE = 32  # choices of one request that are generated at a time; the others wait for these


@dataclass(frozen=True)
class Prompt:
    """A text, or token ids."""

    text: str
    ids: tuple[int, ...] | None


@dataclass
class Choice:
    """One choice in progress. `number` counts all of a request, `sample` those of its prompt."""

    number: int
    prompt: Prompt
    prompt_number: int
    sample: int
    text: str = ""
    finish_reason: str | None = None
    logprobs: LogprobTrack = field(default_factory=LogprobTrack)
    parser: CallParser | None = None  # where the model may call tools
    calls: list[dict[str, Any]] = field(default_factory=list)
    tokens: int = 0

    def add(self, text: str, last: bool) -> tuple[str, list[dict[str, Any]]]:
        """Takes a piece of text; returns the content and the pieces of calls that it brings."""
        if self.parser is None:
            self.text += text
            return text, []
        content, pieces = self.parser.add(text, last)
        self.text += content
        for piece in pieces:
            if piece["index"] == len(self.calls):
                call = {key: piece[key] for key in ("id", "type")}
                self.calls.append(call | {"function": dict(piece["function"])})
            else:
                function = self.calls[piece["index"]]["function"]
                function["arguments"] += piece["function"]["arguments"]
        return content, pieces

    @property
    def mean_logprob(self) -> float:
        """By which `best_of` chooses."""
        values = [each["logprob"] for each in self.logprobs.all if each["logprob"] is not None]
        return sum(values) / max(len(values), 1)


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
        self.best_of = getattr(body, "best_of", None) or body.n
        asked = getattr(body, "logprobs", None)
        self.wants_logprobs = asked is not None and asked is not False  # 0 asks for them
        self.tools = getattr(body, "called_tools", None)
        self._prompt_tokens: dict[int, int] = {}
        self._cached_tokens: dict[int, int] = {}
        self._admitted = asyncio.Semaphore(AT_ONCE)
        self._random_seed = time.time_ns() % 2**31

    def _choices(self, prompts: list[Prompt]) -> list[Choice]:
        count = self.best_of
        form = self.model.description.get("details", {}).get("calls")

        def parser() -> CallParser | None:
            return CallParser(form) if self.tools is not None else None

        return [
            Choice(number * count + sample, prompt, number, sample, parser=parser())
            for number, prompt in enumerate(prompts)
            for sample in range(count)
        ]

    def _parameters(self, choice: Choice) -> dict[str, Any]:
        """A fixed seed makes the stream repeatable after a crash."""
        parameters = self.body.parameters()
        given = self.body.base_seed
        parameters["seed"] = (
            self._random_seed + choice.number if given is None else given + choice.sample
        )
        if choice.prompt.ids is not None:
            parameters["prompt_token_ids"] = choice.prompt.ids
        if self.best_of > self.body.n:
            parameters["logprobs"] = True
        return parameters

    async def _tokens(self, choice: Choice) -> AsyncGenerator[dict[str, Any], None]:
        """The chunks of one choice, once it is its turn."""
        inputs = self.model.description["inputs"]
        name = next(spec["name"] for spec in inputs if spec["datatype"] == "BYTES")
        text = [choice.prompt.text]
        parameters = self._parameters(choice)
        document = {
            "inputs": [{"name": name, "datatype": "BYTES", "shape": [1], "data": text}],
            "parameters": parameters,
        }
        try:
            body = orjson.dumps(document)
        except TypeError:
            raise _too_deep(parameters) from None
        async with self._admitted:
            frame = frames.Frame(frames.STREAM, body=body)
            tokens = self.context.stream(self.model, self.request, frame)
            try:
                async for chunk in tokens:
                    self._count(choice, chunk["data"])
                    yield chunk
            except HTTPError as error:
                if self.form.is_chat and error.message.startswith("prompt: "):
                    error.message = error.message.replace("prompt", "messages", 1)
                raise
            finally:
                await tokens.aclose()

    def _count(self, choice: Choice, data: dict[str, Any]) -> None:
        choice.tokens += data.get("token_id") is not None
        if data.get("prompt_tokens"):
            number = choice.prompt_number
            self._prompt_tokens[number] = data["prompt_tokens"]
            if choice.tokens <= 1:  # of several choices, the first computes what the others reuse
                reused = data.get("reused_tokens", 0)
                self._cached_tokens[number] = min(reused, self._cached_tokens.get(number, reused))

    def _usage(self, choices: list[Choice]) -> dict[str, Any]:
        numbers = {choice.prompt_number for choice in choices}
        prompt = sum(self._prompt_tokens.get(number, 0) for number in numbers)
        cached = sum(self._cached_tokens.get(number, 0) for number in numbers)
        written = sum(choice.tokens for choice in choices)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": written,
            "total_tokens": prompt + written,
            "prompt_tokens_details": {"cached_tokens": cached},
        }

    def _reason(self, choice: Choice, reason: str | None) -> str:
        """Why a choice ended: with calls, unless the request named the function."""
        called = choice.calls and self.tools is not None and self.tools.mode != "named"
        return "tool_calls" if called and reason in ("stop", None) else reason or "stop"

    def _echo(self, choice: Choice, data: dict[str, Any]) -> str:
        """The prompt's text, for a choice's first chunk."""
        if not getattr(self.body, "echo", False):
            return ""
        whole = choice.prompt.ids is None and self.body.truncate_prompt_tokens is None
        return choice.prompt.text if whole else str(data.get("prompt_text", ""))

    def _logprobs(self, entries: list[dict[str, Any]]) -> dict[str, Any] | None:
        if not self.wants_logprobs:
            return None
        if self.form.is_chat:
            return chat_logprobs(entries, getattr(self.body, "top_logprobs", None) or 0)
        return text_logprobs(entries)

    # ---- collected

    async def collect(self, prompts: list[Prompt]) -> Response:
        """One response with all choices."""
        choices = self._choices(prompts)
        tasks = [asyncio.create_task(self._finish(choice)) for choice in choices]
        try:
            await asyncio.gather(*tasks)
        finally:
            _cancel(tasks)
        kept = [self._finished(choice, n) for n, choice in enumerate(self._best(choices))]
        answer = {"object": self.form.object, **self.base, "choices": kept}
        return json_response(answer | {"usage": self._usage(choices)})

    def _best(self, choices: list[Choice]) -> list[Choice]:
        """The n likeliest of the best_of choices of each prompt."""
        kept = []
        for start in range(0, len(choices), self.best_of):
            group = choices[start : start + self.best_of]
            if self.best_of > self.body.n:
                group = sorted(group, key=lambda each: -each.mean_logprob)
            kept += group[: self.body.n]
        return kept

    async def _finish(self, choice: Choice) -> None:
        is_first = True
        async for chunk in self._tokens(choice):
            data = chunk["data"]
            echo = self._echo(choice, data) if is_first else ""
            choice.logprobs.add(data, echo)
            choice.add(echo + data.get("text", ""), chunk["final"])
            choice.finish_reason = data.get("finish_reason") or choice.finish_reason
            is_first = False

    def _finished(self, choice: Choice, index: int) -> dict[str, Any]:
        about = {
            "index": index,
            "finish_reason": self._reason(choice, choice.finish_reason),
            "logprobs": self._logprobs(choice.logprobs.all),
        }
        if self.form.is_chat:
            message: dict[str, Any] = {"role": "assistant", "content": choice.text}
            message["refusal"] = None
            if choice.calls:
                message |= {"content": choice.text or None, "tool_calls": choice.calls}
            return about | {"message": message}
        return about | {"text": choice.text}

    # ---- streamed

    async def stream(self, prompts: list[Prompt]) -> Response:
        """Server-sent events. An error before the first token has its own status."""
        merged: asyncio.Queue[Any] = asyncio.Queue()
        choices = self._choices(prompts)
        feeds = [asyncio.create_task(self._feed(choice, merged)) for choice in choices]
        first = await merged.get()
        if isinstance(first, HTTPError):
            _cancel(feeds)
            raise first

        async def write(stream: ResponseStream) -> None:
            try:
                await self._write(stream, first, merged, choices)
            finally:
                _cancel(feeds)

        return Response(
            200, content_type="text/event-stream", stream=write,
            headers=[("Cache-Control", "no-store")],
        )  # fmt: skip

    async def _feed(self, choice: Choice, merged: asyncio.Queue[Any]) -> None:
        tokens = self._tokens(choice)
        try:
            async for chunk in tokens:
                await merged.put((choice, chunk))
        except HTTPError as error:
            await merged.put(error)
        finally:
            await tokens.aclose()

    async def _write(
        self, stream: ResponseStream, item: Any, merged: asyncio.Queue[Any], choices: list[Choice]
    ) -> None:
        started: set[int] = set()
        unfinished = len(choices)
        while True:
            if isinstance(item, HTTPError):  # the status has been sent already
                await stream.write(server_sent_event({"error": error_details(item)}))
                return
            choice, chunk = item
            event = self._event(choice, chunk, choice.number not in started)
            await stream.write(server_sent_event(event))
            started.add(choice.number)
            unfinished -= chunk["final"]
            if not unfinished:
                break
            item = await merged.get()
        if self.body.stream_options.get("include_usage"):
            usage = {"object": self.form.chunk_object, **self.base, "choices": []}
            await stream.write(server_sent_event(usage | {"usage": self._usage(choices)}))
        await stream.write(b"data: [DONE]\n\n")

    def _event(self, choice: Choice, chunk: dict[str, Any], is_first: bool) -> dict[str, Any]:
        data = chunk["data"]
        echo = self._echo(choice, data) if is_first else ""
        logprobs = self._logprobs(choice.logprobs.add(data, echo))
        text, calls = choice.add(echo + data.get("text", ""), chunk["final"])
        reason = self._reason(choice, data.get("finish_reason")) if chunk["final"] else None
        about: dict[str, Any] = {
            "index": choice.number,
            "finish_reason": reason,
            "logprobs": logprobs,
        }
        if self.form.is_chat:
            delta: dict[str, Any] = {"role": "assistant"} if is_first else {}
            delta |= {"tool_calls": calls} if calls else {}
            about["delta"] = delta | ({"content": text} if text or not calls else {})
        else:
            about["text"] = text
        event = {"object": self.form.chunk_object, **self.base, "choices": [about]}
        options = self.body.stream_options
        if options.get("continuous_usage_stats"):
            return event | {"usage": self._usage([choice])}
        return event | ({"usage": None} if options.get("include_usage") else {})


def _too_deep(parameters: dict[str, Any]) -> ParameterError:
    """The error that names the parameter whose value is nested too deeply for JSON."""
    for name, value in parameters.items():
        try:
            orjson.dumps(value)
        except TypeError:
            given = {"guide": (parameters.get("guide") or {}).get("name"), "tool_grammar": "tools"}
            param = given.get(name) or name
            return ParameterError(param, f"{param}: its value is nested too deeply")
    return ParameterError(None, "the request is nested too deeply")


def _cancel(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
