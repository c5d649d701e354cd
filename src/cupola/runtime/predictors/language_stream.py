"""LanguageEngine: streamed completions of many requests, one token each at every step.

A chunk's data is {"text", "token_id", "finish_reason"}, with "logprob" where it was asked for,
and on the last chunk "prompt_tokens" and "completion_tokens". `text` may be empty: a character
can take several tokens, and what may be the beginning of a stop string is held back.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from cupola.models.bloom import Sampling, Token
from cupola.runtime.predictor import Chunk
from cupola.runtime.predictors.language import LanguageSample

LONGEST_CHARACTER = 4  # bytes of UTF-8, and so tokens at most


@dataclass
class Writer:
    """Turns one request's ids into text as soon as it is certain."""

    tokenizer: Any
    prompt_tokens: int
    stop: Sequence[str] = ()
    count: int = 0
    held: str = ""
    _unread: list[int] = field(default_factory=list)

    def add(self, token_id: int, last: bool) -> tuple[str, bool]:
        """The text that became certain, and whether a stop string was reached."""
        self.count += 1
        self._unread.append(token_id)
        text = self.tokenizer.decode(self._unread)
        if text.endswith("\ufffd") and len(self._unread) < LONGEST_CHARACTER and not last:
            return "", False  # in the middle of a character
        self._unread.clear()
        self.held += text
        for end in sorted(self.held.find(stop) for stop in self.stop):
            if end >= 0:
                return self.held[:end], True
        certain = len(self.held) if last else len(self.held) - self._overlap()
        out, self.held = self.held[:certain], self.held[certain:]
        return out, False

    def _overlap(self) -> int:
        """Length of the longest end of the text that begins a stop string."""
        longest = max((len(stop) for stop in self.stop), default=1) - 1
        for length in range(min(longest, len(self.held)), 0, -1):
            if any(stop.startswith(self.held[-length:]) for stop in self.stop):
                return length
        return 0


class Steps(Protocol):
    """What writes the tokens: a Batcher, or one that leads those of other ranks."""

    @property
    def active(self) -> int:
        """Requests under way."""

    def add(self, request_id: str, prompt: Iterable[int], sampling: Sampling) -> None:
        """Takes a request in."""

    def cancel(self, request_id: str) -> None:
        """Forgets a request."""

    def step(self) -> list[Token]:
        """Runs the model once; the tokens that it wrote."""

    def close(self) -> None:
        """Not used again."""


class LanguageEngine:
    """A Batcher with text at both ends; requests join and leave between steps."""

    def __init__(self, batcher: Steps, tokenizer: Any) -> None:
        self.batcher, self.tokenizer = batcher, tokenizer
        self._writers: dict[str, Writer] = {}

    @property
    def active(self) -> int:
        """How many requests are under way."""
        return self.batcher.active

    def add(self, request_id: str, sample: LanguageSample) -> None:
        """Takes a request in; InputError if it could never fit."""
        self.batcher.add(request_id, sample.ids, sample.sampling)
        self._writers[request_id] = Writer(self.tokenizer, len(sample.ids), sample.stop)

    def resume(self, request_id: str, sample: LanguageSample, written: Sequence[int]) -> None:
        """Takes a request in whose first tokens are written and read already.

        What follows is what would have followed: a choice depends on the seed and the position
        alone, and both go on. InputError if it could never fit.
        """
        left = sample.sampling.max_tokens - len(written)
        how = replace(sample.sampling, max_tokens=left)
        self.batcher.add(request_id, [*sample.ids, *written], how)
        writer = Writer(self.tokenizer, len(sample.ids), sample.stop)
        for token_id in written:  # text that is held back is held back again
            writer.add(token_id, last=False)
        self._writers[request_id] = writer

    def cancel(self, request_id: str) -> None:
        """Forgets a request; unknown ids are ignored."""
        self.batcher.cancel(request_id)
        self._writers.pop(request_id, None)

    def close(self) -> None:
        """The engine is not used again."""
        self.batcher.close()

    def step(self) -> list[Chunk]:
        """Runs the model once; one chunk for every request that wrote a token."""
        return [self._chunk(token) for token in self.batcher.step()]

    def _chunk(self, token: Token) -> Chunk:
        writer = self._writers[token.request_id]
        reason = token.finish_reason
        text, stopped = writer.add(token.token_id, last=reason is not None)
        if stopped:
            reason = "stop"
        data: dict[str, Any] = {
            "text": text,
            "token_id": token.token_id,
            "finish_reason": reason,
        }
        if token.logprob is not None:
            data["logprob"] = token.logprob
        if reason is not None:
            data |= {"prompt_tokens": writer.prompt_tokens, "completion_tokens": writer.count}
            self.cancel(token.request_id)
        return Chunk(token.request_id, data, final=reason is not None)
