"""The log probabilities of a choice in the forms of OpenAI's two endpoints."""

from collections.abc import Mapping, Sequence
from typing import Any


def text_logprobs(entries: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Of /v1/completions. An entry has token, logprob (None for the first one), top and offset.

    Different tokens may have the same text; the likeliest one's value is listed.
    """
    top: list[dict[str, float] | None] = []
    for entry in entries:
        if entry["logprob"] is None:
            top.append(None)
            continue
        found = {entry["token"]: entry["logprob"]}
        for token, _, logprob, *_ in entry["top"]:
            found[token] = max(logprob, found.get(token, logprob))
        top.append(found)
    return {
        "tokens": [entry["token"] for entry in entries],
        "token_logprobs": [entry["logprob"] for entry in entries],
        "top_logprobs": top,
        "text_offset": [entry["offset"] for entry in entries],
    }


def chat_logprobs(entries: Sequence[Mapping[str, Any]], count: int) -> dict[str, Any]:
    """Of /v1/chat/completions, with `count` of the likeliest tokens each."""
    content = [
        _named(entry["token"], entry["logprob"], entry["bytes"])
        | {"top_logprobs": [_named(text, value, b) for text, _, value, b in entry["top"][:count]]}
        for entry in entries
    ]
    return {"content": content, "refusal": None}


def _named(token: str, logprob: float, raw: list[int] | None) -> dict[str, Any]:
    """`raw` are the bytes of a token that is a part of a character."""
    return {"token": token, "logprob": logprob, "bytes": raw or list(token.encode())}


class LogprobTrack:
    """The entries of one choice, with the offsets of their tokens in its text."""

    def __init__(self) -> None:
        self.offset = 0
        self.all: list[dict[str, Any]] = []

    def add(self, data: Mapping[str, Any], echo: str) -> list[dict[str, Any]]:
        """The entries of a chunk; `echo` is the prompt's text in the first one."""
        found = []
        place = 0
        for entry in data.get("prompt") or ():
            found.append({**entry, "offset": min(place, len(echo))})
            place += len(entry["token"])
        self.offset += len(echo)
        if data.get("logprob") is not None:
            found.append(
                {
                    "token": data.get("token", data.get("text", "")),
                    "logprob": data["logprob"],
                    "bytes": data.get("bytes"),
                    "top": data.get("top") or [],
                    "offset": self.offset,
                }
            )
        self.offset += len(data.get("text", ""))
        self.all += found
        return found
