"""The requests and errors of the OpenAI API. Unknown fields are ignored, as OpenAI does."""

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from cupola.serve.http.messages import HTTPError

_CODES = {404: "model_not_found", 429: "rate_limit_exceeded"}


class GenerationRequest(BaseModel):
    """The fields that both kinds of request share."""

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
        """The parameters for the model, without those that were not given."""
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


class CompletionRequest(GenerationRequest):
    """POST /v1/completions."""

    prompt: str | list[str]
    logprobs: int | None = None
    echo: bool = False


class ChatMessage(BaseModel):
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


class ChatRequest(GenerationRequest):
    """POST /v1/chat/completions."""

    messages: list[ChatMessage] = Field(min_length=1)
    logprobs: bool | None = None


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
    """An HTTPError in OpenAI's form."""
    kind = "server_error" if error.status >= 500 else "invalid_request_error"
    if error.status == 429:
        kind = "rate_limit_error"
    return ErrorDetails(error.message, kind, None, _CODES.get(error.status))


@dataclass
class ModelList:
    data: list[dict[str, Any]]
    object: Literal["list"] = "list"
