"""LanguageEngine: streamed completions of many requests, one token each at every step.

A chunk's data is {"text", "token_id", "finish_reason"}, with "logprob" where it was requested, and
on the last chunk "prompt_tokens" and "completion_tokens". `text` may be empty: a character can take
several tokens, and what may be the beginning of a stop string is held back.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from cupola.generation import SamplingParams, Scheduler, Token
from cupola.generation.detokenizer import IncrementalDetokenizer
from cupola.generation.tensor_parallel import Driver
from cupola.runtime.predictor import Chunk


@dataclass(frozen=True)
class LanguageSample:
    """One prompt as ids, how to continue it, and the strings that end it."""

    ids: tuple[int, ...]
    sampling: SamplingParams = field(default_factory=SamplingParams)
    stop: tuple[str, ...] = ()


class LanguageEngine:
    """A scheduler from text to text; requests join and leave between steps."""

    def __init__(self, scheduler: Scheduler | Driver, tokenizer: Any) -> None:
        self.scheduler, self.tokenizer = scheduler, tokenizer
        self._detokenizers: dict[str, IncrementalDetokenizer] = {}

    @property
    def active(self) -> int:
        """How many requests are in progress."""
        return self.scheduler.active

    def add(self, request_id: str, sample: LanguageSample) -> None:
        """Accepts a request; InputError if it could never fit."""
        self.scheduler.add(request_id, sample.ids, sample.sampling)
        self._detokenizers[request_id] = self._detokenizer(sample)

    def resume(self, request_id: str, sample: LanguageSample, written: Sequence[int]) -> None:
        """Accepts a request whose first tokens `written` the client has already received.

        The rest is the same as without the interruption: a choice depends only on the seed and the
        position, and both continue. InputError if it could never fit.
        """
        left = sample.sampling.max_tokens - len(written)
        sampling = replace(sample.sampling, max_tokens=left)
        self.scheduler.add(request_id, [*sample.ids, *written], sampling)
        detokenizer = self._detokenizer(sample)
        for token_id in written:  # text that is held back is held back again
            detokenizer.add(token_id, last=False)
        self._detokenizers[request_id] = detokenizer

    def cancel(self, request_id: str) -> None:
        """Drops a request; unknown ids are ignored."""
        self.scheduler.cancel(request_id)
        self._detokenizers.pop(request_id, None)

    def close(self) -> None:
        """Drops every request; the engine is not used again."""
        self.scheduler.close()

    def step(self) -> list[Chunk]:
        """Runs the model once; one chunk for every request that got a token."""
        return [self._chunk(token) for token in self.scheduler.step()]

    def _detokenizer(self, sample: LanguageSample) -> IncrementalDetokenizer:
        return IncrementalDetokenizer(self.tokenizer, sample.ids, sample.stop)

    def _chunk(self, token: Token) -> Chunk:
        detokenizer = self._detokenizers[token.request_id]
        reason = token.finish_reason
        text, stopped = detokenizer.add(token.token_id, last=reason is not None)
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
            data |= {
                "prompt_tokens": len(detokenizer.prompt),
                "completion_tokens": detokenizer.count,
            }
            self.cancel(token.request_id)
        return Chunk(token.request_id, data, final=reason is not None)
