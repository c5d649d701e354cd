"""The requests and errors of the OpenAI API. Null means the default, as with OpenAI.

A parameter that changes the answer and is not supported is an error, and so is an unknown one.
"""

import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from cupola.serve.http.messages import HTTPError
from cupola.serve.protocols.openai_errors import ErrorDetails, ParameterError
from cupola.serve.protocols.openai_guides import GUIDED, Guide, read_guides
from cupola.serve.protocols.openai_messages import ChatMessage
from cupola.serve.protocols.openai_tools import ToolRequest, read_tools

# OpenAI's parameters that do not change what the model computes, with their types: accepted without
# effect, or, with the setting openai_strict, refused.
IGNORED: dict[str, type] = {
    "metadata": dict,
    "prediction": dict,
    "prompt_cache_key": str,
    "prompt_cache_retention": str,
    "reasoning_effort": str,
    "safety_identifier": str,
    "service_tier": str,
    "store": bool,
    "user": str,
    "verbosity": str,
}
TYPES = {dict: "an object", str: "a text", bool: "true or false"}
# Values that ask for nothing; with any other value these parameters are not supported.
NOTHING: dict[str, tuple[Any, ...]] = {
    "add_generation_prompt": (True,),
    "audio": (),
    "continue_final_message": (False,),
    "function_call": ("none",),
    "functions": ([],),
    "length_penalty": (1, 1.0),
    "modalities": (["text"],),
    "spaces_between_special_tokens": (True,),
    "suffix": ("",),
    "use_beam_search": (False,),
    "web_search_options": (),
}
STREAM_OPTIONS = ("include_usage", "include_obfuscation", "continuous_usage_stats")
_CODES = {401: "invalid_api_key", 403: "permission_denied", 404: "unknown_url",
          429: "rate_limit_exceeded"}  # fmt: skip
_KINDS = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_CONTEXT = "maximum context length"  # in the error of a prompt that is too long
SEEDS = 2**63

Probability = Annotated[float, Field(ge=0, le=1)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
Stop = str | Annotated[list[str | int], Field(max_length=16)]


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
    n: int = Field(1, ge=1, le=128)
    stream: bool = False
    stream_options: dict[str, Any] = Field(default_factory=dict)
    response_format: dict[str, Any] | None = None
    structured_outputs: dict[str, Any] | None = None
    guided_json: dict[str, Any] | str | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None
    skip_special_tokens: bool = True
    allowed_token_ids: list[int] | None = Field(None, min_length=1)
    bad_words: list[str] = Field(default_factory=list, max_length=256)
    truncate_prompt_tokens: int | None = Field(
        None,
        ge=-1,
        description="How many of the last tokens of the prompt are kept; -1: all that fit.",
    )
    include_stop_str_in_output: bool = False

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, values: Any) -> Any:
        if isinstance(values, dict):
            return {key: value for key, value in values.items() if value is not None}
        return values

    def check(self, strict: bool = False) -> None:
        """ParameterError for parameters that are unknown, not supported, or contradict others.

        strict: also for those that are accepted without effect.
        """
        for name, value in (self.model_extra or {}).items():
            if name in NOTHING and not any(_same(value, each) for each in NOTHING[name]):
                raise ParameterError(name, f"{name}: not supported", "unsupported_parameter")
            if name in IGNORED and strict:
                message = f"{name}: has no effect on this server, which is set to refuse it"
                raise ParameterError(name, message, "unsupported_parameter")
            if name in IGNORED and not isinstance(value, IGNORED[name]):
                message = f"{name}: expected {TYPES[IGNORED[name]]}, got {value!r:.60}"
                raise ParameterError(name, message, "invalid_type")
            if name not in NOTHING and name not in IGNORED:
                raise ParameterError(
                    name, f"Unrecognized request argument supplied: {name}", "unknown_parameter"
                )
        if self.seed is not None and self.seed != self.seed // 1:
            raise ParameterError("seed", f"seed: expected an integer, got {self.seed}")
        self._check_stream_options()
        _ = self.guide

    def _check_stream_options(self) -> None:
        name = "stream_options"
        if self.stream_options and not self.stream:
            raise ParameterError(name, f"{name}: needs stream: true")
        for key, value in self.stream_options.items():
            if key not in STREAM_OPTIONS:
                raise ParameterError(name, f"{name}.{key}: unknown", "unknown_parameter")
            if not isinstance(value, bool | None):
                raise ParameterError(name, f"{name}.{key}: expected true or false, got {value!r}")

    @property
    def guide(self) -> Guide | None:
        """What the text has to be; see openai_guides.py."""
        given = {name: getattr(self, name) for name in GUIDED}
        guided = {name: value for name, value in given.items() if value is not None}
        return read_guides(self.response_format, self.structured_outputs, guided)

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
            "special_tokens": not self.skip_special_tokens,
            "guide": self.guide,
            "allowed_token_ids": self.allowed_token_ids,
            "bad_words": self.bad_words,
            "truncate_prompt_tokens": self.truncate_prompt_tokens,
            "include_stop_str_in_output": self.include_stop_str_in_output,
        }
        return {name: value for name, value in found.items() if value not in ([], {}, None)}


def _same(value: Any, other: Any) -> bool:
    """Whether two values of JSON are equal: true is not 1."""
    return isinstance(value, bool) == isinstance(other, bool) and bool(value == other)


class CompletionRequest(GenerationRequest):
    """POST /v1/completions. A prompt is a text or token ids; several give several choices."""

    prompt: str | list[str] | list[int] | list[list[int]]
    max_tokens: int = Field(16, ge=0)
    logprobs: int | None = Field(None, ge=0, le=5)
    echo: bool = False
    best_of: int | None = Field(None, ge=1, le=128)

    def check(self, strict: bool = False) -> None:
        super().check(strict)
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


class ChatRequest(GenerationRequest):
    """POST /v1/chat/completions. Without a limit, the answer may fill the context."""

    messages: list[ChatMessage] = Field(min_length=1)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool = False
    top_logprobs: int | None = Field(None, ge=0, le=20)
    tools: list[dict[str, Any]] = Field(default_factory=list)
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool = True
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)

    def check(self, strict: bool = False) -> None:
        super().check(strict)
        for message in self.messages:
            message.check()
        if self.top_logprobs is not None and not self.logprobs:
            raise ParameterError("top_logprobs", "top_logprobs: needs logprobs: true")
        tools = self.called_tools
        if tools is not None and self.guide and self.guide["name"] != "response_format":
            name = self.guide["name"]
            raise ParameterError(name, f"{name}: cannot be combined with tools")

    @property
    def called_tools(self) -> ToolRequest | None:
        """The tools that the model may call; see openai_tools.py."""
        tools = read_tools(self.tools, self.tool_choice, self.parallel_tool_calls)
        return None if tools is None or tools.mode == "none" else tools

    def parameters(self) -> dict[str, Any]:
        limit = self.max_completion_tokens or self.max_tokens
        found = super().parameters()
        found |= {"whole_context": True} if limit is None else {"max_tokens": limit}
        found["messages"] = [message.plain() for message in self.messages]
        if self.logprobs:
            found |= {"logprobs": True, "top_logprobs": self.top_logprobs or 0}
        if self.chat_template_kwargs:
            found["chat_template_kwargs"] = self.chat_template_kwargs
        if (tools := self.called_tools) is not None:
            found |= {"tools": tools.tools, "tool_grammar": tools.grammar()}
        return found


def error_details(error: HTTPError) -> ErrorDetails:
    """An HTTPError in OpenAI's form. A message that begins with a parameter's name names it."""
    kind = "server_error" if error.status >= 500 else "invalid_request_error"
    if error.status in _KINDS:
        kind = _KINDS[error.status]
    if isinstance(error, ParameterError):
        return ErrorDetails(error.message, kind, error.param, error.code)
    code, param = _CODES.get(error.status), None
    if error.status == 404 and "model" in error.message.split():
        code, param = "model_not_found", "model"
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
