"""The requests and errors of the OpenAI API. Null means the default, as with OpenAI.

A parameter that changes the answer and is not supported is an error, and so is an unknown one.
"""

import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from cupola.serve.http.messages import HTTPError

# Accepted without effect, since they do not change what the model computes.
IGNORED = {
    "metadata", "parallel_tool_calls", "prediction", "prompt_cache_key", "prompt_cache_retention",
    "reasoning_effort", "safety_identifier", "service_tier", "store", "user", "verbosity",
}  # fmt: skip
# Values that ask for nothing; with any other value these parameters are not supported.
NOTHING: dict[str, tuple[Any, ...]] = {
    "audio": (),
    "function_call": ("none",),
    "functions": ([],),
    "modalities": (["text"],),
    "response_format": ({"type": "text"},),
    "suffix": ("",),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "web_search_options": (),
}
_CODES = {404: "model_not_found", 429: "rate_limit_exceeded"}
_CONTEXT = "maximum context length"  # in the error of a prompt that is too long
SEEDS = 2**63

Probability = Annotated[float, Field(ge=0, le=1)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
Stop = str | Annotated[list[str | int], Field(max_length=16)]


class ParameterError(HTTPError):
    """A parameter that cannot be used, with OpenAI's `param` and `code`."""

    def __init__(self, param: str, message: str, code: str | None = None) -> None:
        super().__init__(400, message)
        self.param, self.code = param, code


class GenerationRequest(BaseModel):
    """The fields that both kinds of request share."""

    model_config = ConfigDict(extra="allow", strict=True)

    model: str
    temperature: float = Field(1.0, ge=0, le=2)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=-1, description="0 and -1 mean all tokens.")
    min_p: Probability = 0.0
    frequency_penalty: Penalty = 0.0
    presence_penalty: Penalty = 0.0
    repetition_penalty: float = Field(1.0, gt=0, le=100)
    logit_bias: dict[str, float] = Field(default_factory=dict, max_length=1024)
    seed: int | float | None = None
    stop: Stop = Field(default_factory=list, description="Texts, and token ids.")
    stop_token_ids: list[int] = Field(default_factory=list, max_length=64)
    ignore_eos: bool = False
    min_tokens: int = Field(0, ge=0)
    n: int = Field(1, ge=1, le=16)
    stream: bool = False
    stream_options: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, values: Any) -> Any:
        if isinstance(values, dict):
            return {key: value for key, value in values.items() if value is not None}
        return values

    def check(self) -> None:
        """ParameterError for parameters that are unknown or not supported."""
        for name, value in (self.model_extra or {}).items():
            if name in NOTHING and value not in NOTHING[name]:
                raise ParameterError(name, f"{name}: not supported", "unsupported_parameter")
            if name not in NOTHING and name not in IGNORED:
                raise ParameterError(
                    name, f"Unrecognized request argument supplied: {name}", "unknown_parameter"
                )
        if self.seed is not None and self.seed != self.seed // 1:
            raise ParameterError("seed", f"seed: expected an integer, got {self.seed}")

    @property
    def base_seed(self) -> int | None:
        """The seed as the model takes it; numbers beyond its range wrap."""
        return None if self.seed is None else int(self.seed) % SEEDS

    def parameters(self) -> dict[str, Any]:
        """The parameters for the model."""
        stop = [self.stop] if isinstance(self.stop, str) else self.stop
        found = {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": max(self.top_k, 0),
            "min_p": self.min_p,
            "frequency_penalty": self.frequency_penalty,
            "presence_penalty": self.presence_penalty,
            "repetition_penalty": self.repetition_penalty,
            "logit_bias": self.logit_bias,
            "stop": [*(each for each in stop if each != ""), *self.stop_token_ids],
            "ignore_eos": self.ignore_eos,
            "min_tokens": self.min_tokens,
        }
        return {name: value for name, value in found.items() if value not in ([], {})}


class CompletionRequest(GenerationRequest):
    """POST /v1/completions. A prompt is a text or token ids; several give several choices."""

    prompt: str | list[str] | list[int] | list[list[int]]
    max_tokens: int = Field(16, ge=0)
    logprobs: int | None = Field(None, ge=0, le=5)
    echo: bool = False
    best_of: int | None = Field(None, ge=1, le=16)

    def check(self) -> None:
        super().check()
        if self.best_of is not None and self.best_of < self.n:
            raise ParameterError("best_of", f"best_of: must be at least n, {self.n}")
        if self.best_of is not None and self.best_of > self.n and self.stream:
            raise ParameterError("best_of", "best_of: not supported with stream")

    def parameters(self) -> dict[str, Any]:
        found = super().parameters() | {"max_tokens": self.max_tokens, "echo": self.echo}
        if self.logprobs is not None:
            found |= {"logprobs": True, "top_logprobs": self.logprobs}
            found["prompt_logprobs"] = self.echo
        return found


class ChatMessage(BaseModel):
    """One turn of a chat."""

    model_config = ConfigDict(extra="allow", strict=True)

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[dict[str, Any]] | None = None

    def check(self) -> None:
        """ParameterError for content that is not text."""
        for part in self.content if isinstance(self.content, list) else ():
            if part.get("type") not in ("text", "refusal"):
                raise ParameterError(
                    "messages",
                    f"messages: a content part of type {part.get('type')!r:.40} is not supported, "
                    "only text",
                    "unsupported_value",
                )

    @property
    def text(self) -> str:
        """The text parts, joined."""
        if isinstance(self.content, list):
            parts = [part.get("text", part.get("refusal", "")) for part in self.content]
            return "".join(map(str, parts))
        return self.content or ""

    def plain(self) -> dict[str, Any]:
        """The message as chat templates take it."""
        extra = {key: value for key, value in (self.model_extra or {}).items() if value is not None}
        return {"role": self.role, "content": self.text, **extra}


class ChatRequest(GenerationRequest):
    """POST /v1/chat/completions. Without a limit, the answer may fill the context."""

    messages: list[ChatMessage] = Field(min_length=1)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool = False
    top_logprobs: int | None = Field(None, ge=0, le=20)

    def check(self) -> None:
        super().check()
        for message in self.messages:
            message.check()
        if self.top_logprobs is not None and not self.logprobs:
            raise ParameterError("top_logprobs", "top_logprobs: needs logprobs: true")

    def parameters(self) -> dict[str, Any]:
        limit = self.max_completion_tokens or self.max_tokens
        found = super().parameters()
        found |= {"whole_context": True} if limit is None else {"max_tokens": limit}
        found["messages"] = [message.plain() for message in self.messages]
        if self.logprobs:
            found |= {"logprobs": True, "top_logprobs": self.top_logprobs or 0}
        return found


@dataclass
class ErrorDetails:
    message: str
    type: str
    param: str | None
    code: str | None


@dataclass
class OpenAIError:
    error: ErrorDetails


def error_details(error: HTTPError) -> ErrorDetails:
    """An HTTPError in OpenAI's form. A message that begins with a parameter's name names it."""
    kind = "server_error" if error.status >= 500 else "invalid_request_error"
    if error.status == 429:
        kind = "rate_limit_error"
    if isinstance(error, ParameterError):
        return ErrorDetails(error.message, kind, error.param, error.code)
    code = _CODES.get(error.status)
    param = "model" if error.status == 404 else None
    if error.status == 400:
        code = "context_length_exceeded" if _CONTEXT in error.message else None
        named = re.match(r"(\w+)(?:\.[\w.]+)?(?:: | must be )", error.message)
        param = named[1] if named and named[1] in PARAMETERS else None
    return ErrorDetails(error.message, kind, param, code)


PARAMETERS = {*CompletionRequest.model_fields, *ChatRequest.model_fields}


@dataclass
class ModelEntry:
    id: str
    created: int
    owned_by: str = "cupola"
    object: Literal["model"] = "model"


@dataclass
class ModelList:
    data: list[ModelEntry]
    object: Literal["list"] = "list"
