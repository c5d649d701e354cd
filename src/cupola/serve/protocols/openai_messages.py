"""The messages of a chat in OpenAI's API."""

from typing import Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict

from cupola.serve.protocols.openai_errors import ParameterError


class ChatMessage(BaseModel):
    """One turn of a chat."""

    model_config = ConfigDict(extra="allow", strict=True)

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[dict[str, Any]] | None = None

    def check(self) -> None:
        """ParameterError for content that is not text, and for calls that are none."""
        if self.content is None and self.role not in ("assistant", "function"):
            message = f"messages: a message of the role {self.role!r} needs content"
            raise ParameterError("messages", message)
        for part in self.content if isinstance(self.content, list) else ():
            kind = part.get("type")
            if kind in ("text", "refusal") and not isinstance(part.get(kind), str):
                message = f"messages: a content part of type {kind!r} needs a text {kind!r}"
                raise ParameterError("messages", message)
            if kind not in ("text", "refusal"):
                raise ParameterError(
                    "messages",
                    f"messages: a content part of type {part.get('type')!r:.40} is not supported, "
                    "only text",
                    "unsupported_value",
                )
        _ = self.plain()

    @property
    def text(self) -> str:
        """The text parts, joined."""
        if isinstance(self.content, list):
            parts = [part.get("text", part.get("refusal", "")) for part in self.content]
            return "".join(map(str, parts))
        return self.content or ""

    def plain(self) -> dict[str, Any]:
        """The message as chat templates take it: arguments of calls are objects, not text."""
        extra = {key: value for key, value in (self.model_extra or {}).items() if value is not None}
        if "tool_calls" in extra:
            extra["tool_calls"] = [_with_object(call) for call in self._calls(extra["tool_calls"])]
        return {"role": self.role, "content": self.text, **extra}

    def _calls(self, calls: Any) -> list[dict[str, Any]]:
        """The calls of an earlier turn; ParameterError if they are none."""
        good = isinstance(calls, list) and all(
            isinstance(call, dict)
            and isinstance(call.get("function"), dict)
            and isinstance(call["function"].get("name"), str)
            for call in calls
        )
        if not good:
            message = "messages: tool_calls: expected a list of calls, each with a function's name"
            raise ParameterError("messages", message)
        return calls


def _with_object(call: dict[str, Any]) -> dict[str, Any]:
    function = call["function"]
    try:
        arguments = orjson.loads(function.get("arguments") or "{}")
    except (orjson.JSONDecodeError, TypeError):  # what a template does not need may be anything
        return call
    return {**call, "function": {**function, "arguments": arguments}}
