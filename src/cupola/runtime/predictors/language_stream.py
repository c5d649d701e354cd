"""LanguageEngine: streamed completions of many requests, one token each at every step.

A chunk's data is {"text", "token_id", "finish_reason", "prompt_tokens"}, with "logprob", "token"
(its own text), "bytes" (if it is a part of a character) and "top" ([text, id, logprob, bytes] of
the likeliest) where they were requested, on the first chunk "reused_tokens" (of the prompt, from
the prefix cache), if any, and on the last chunk "completion_tokens". `text` may be
empty: a character can take several tokens, and what may be the beginning of a stop string is held
back. The first chunk has "prompt_text" and "prompt" (the logprobs of the prompt's tokens) for a
request with `echo`.

A preempted request has a chunk {"waiting": True} once a second, so that nobody gives it up.
"""

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from cupola.errors import InputError
from cupola.generation import SamplingParams, Scheduler, Token
from cupola.generation.detokenizer import IncrementalDetokenizer, token_bytes
from cupola.generation.tensor_parallel import Driver
from cupola.runtime.predictor import Chunk

REPORT = 1.0  # seconds between two chunks of a request that was preempted


@dataclass(frozen=True)
class LanguageSample:
    """One prompt as ids, how to continue it, and the strings that end it."""

    ids: tuple[int, ...]
    sampling: SamplingParams = field(default_factory=SamplingParams)
    stop: tuple[str, ...] = ()
    echo: bool = False
    special: bool = False  # whether the text has the special tokens, but those that end it
    keep_stop: bool = False  # whether the text ends with the stop string, or before it


@dataclass(frozen=True)
class WithSpecialTokens:
    """A tokenizer that decodes special tokens, but those that end a text, as their names."""

    tokenizer: Any
    ends: Collection[int]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids."""
        kept = [token for token in ids if token not in self.ends]
        return str(self.tokenizer.decode(kept, special=True))


class LanguageEngine:
    """A scheduler from text to text; requests join and leave between steps."""

    def __init__(self, scheduler: Scheduler | Driver, tokenizer: Any) -> None:
        self.scheduler, self.tokenizer = scheduler, tokenizer
        self._detokenizers: dict[str, IncrementalDetokenizer] = {}
        self._echoes: set[str] = set()
        self._reported = time.monotonic()

    @property
    def active(self) -> int:
        """How many requests are in progress."""
        return self.scheduler.active

    def add(self, request_id: str, sample: LanguageSample) -> None:
        """Accepts a request; InputError if it could never fit."""
        self.scheduler.add(request_id, sample.ids, sample.sampling)
        self._detokenizers[request_id] = self._detokenizer(sample)
        if sample.echo:
            self._echoes.add(request_id)

    def resume(self, request_id: str, sample: LanguageSample, written: Sequence[int]) -> None:
        """Accepts a request whose first tokens `written` the client has already received.

        The rest is the same as without the interruption: a choice depends only on the seed and the
        position, and both continue. InputError if it could never fit.
        """
        sampling = replace(sample.sampling, prompt_logprobs=False)
        self.scheduler.add(request_id, sample.ids, sampling, written)
        detokenizer = self._detokenizer(sample)
        for token_id in written:  # text that is held back is held back again
            detokenizer.add(token_id, last=False)
        self._detokenizers[request_id] = detokenizer

    def cancel(self, request_id: str) -> None:
        """Drops a request; unknown ids are ignored."""
        self.scheduler.cancel(request_id)
        self._detokenizers.pop(request_id, None)
        self._echoes.discard(request_id)

    def close(self) -> None:
        """Drops every request; the engine is not used again."""
        self.scheduler.close()

    def step(self) -> list[Chunk]:
        """Runs the model once; one chunk for every new token."""
        chunks = [
            self._chunk_or_error(token)
            for token in self.scheduler.step()
            if token.request_id in self._detokenizers  # a stop string ends a request early
        ]
        return chunks + self._waiting()

    def _waiting(self) -> list[Chunk]:
        now = time.monotonic()
        if now < self._reported + REPORT:
            return []
        self._reported = now
        return [Chunk(request_id, {"waiting": True}) for request_id in self.scheduler.preempted]

    def _chunk_or_error(self, token: Token) -> Chunk:
        """The chunk of a token; a tokenizer or a grammar that fails ends this request alone."""
        if token.error:
            self.cancel(token.request_id)
            return Chunk(token.request_id, {}, final=True, error=token.error, status=400)
        try:
            return self._chunk(token)
        except InputError as error:
            self.cancel(token.request_id)
            return Chunk(token.request_id, {}, final=True, error=str(error))

    def _detokenizer(self, sample: LanguageSample) -> IncrementalDetokenizer:
        least = sample.sampling.min_tokens
        tokenizer = self.tokenizer
        if sample.special:
            tokenizer = WithSpecialTokens(tokenizer, self.scheduler.end_token_ids)
        return IncrementalDetokenizer(tokenizer, sample.ids, sample.stop, least, sample.keep_stop)

    def _chunk(self, token: Token) -> Chunk:
        detokenizer = self._detokenizers[token.request_id]
        reason, text = token.finish_reason, ""
        if token.token_id is not None:
            text, stopped = detokenizer.add(token.token_id, last=reason is not None)
            reason = "stop" if stopped else reason
        data: dict[str, Any] = {
            "text": text,
            "token_id": token.token_id,
            "finish_reason": reason,
            "prompt_tokens": len(detokenizer.prompt),
        }
        if token.reused:
            data["reused_tokens"] = token.reused
        if token.token_id is not None and token.logprob is not None:
            data["logprob"] = token.logprob
            data["token"], data["bytes"] = self._text(token.token_id), self._bytes(token.token_id)
            data["top"] = self._named(token.top)
        if token.request_id in self._echoes:
            self._echoes.discard(token.request_id)
            ids = list(detokenizer.prompt)
            data["prompt_text"] = self.tokenizer.decode(ids)
            data["prompt"] = [
                {"token": self._text(i), "token_id": i, "logprob": logprob, "top": self._named(top)}
                for i, (logprob, top) in zip(ids, [(None, ()), *token.prompt], strict=False)
            ]
        if reason is not None:
            data["completion_tokens"] = detokenizer.count
            self.cancel(token.request_id)
        return Chunk(token.request_id, data, final=reason is not None)

    def _text(self, token_id: int) -> str:
        return str(self.tokenizer.decode([token_id]))

    def _named(self, top: Sequence[tuple[int, float]]) -> list[list[Any]]:
        return [[self._text(i), i, logprob, self._bytes(i)] for i, logprob in top]

    def _bytes(self, token_id: int) -> list[int] | None:
        """The bytes of a token whose text is a part of a character; None where it is text."""
        if "\ufffd" not in self._text(token_id):
            return None
        return token_bytes(str(self.tokenizer.id_to_token(token_id)))
