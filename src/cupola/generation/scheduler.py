"""Batcher: continuous batching. Requests join and leave at every step; prompts come in chunks.

One step runs the model once over all new tokens: one token of each request that is writing, and
up to `chunk` prompt tokens of those that are still reading. A long prompt therefore delays its
neighbors by one chunk at most (arXiv 2308.16369).
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cupola.errors import InputError
from cupola.generation.cache import BLOCK, BlockCache, Pages
from cupola.generation.paged_attention import PagedContext, Segment
from cupola.generation.sampling import Sampling, choose, logprob_of

if TYPE_CHECKING:
    from cupola.models.bloom.model import BloomForCausalLM


@dataclass(frozen=True)
class Token:
    """One new token; `finish_reason` is None, "stop" (end of text) or "length"."""

    request_id: str
    token_id: int
    finish_reason: str | None = None
    logprob: float | None = None


@dataclass
class _Request:
    request_id: str
    tokens: list[int]  # the prompt, then what was written
    prompt: int
    sampling: Sampling
    pages: Pages = field(default_factory=Pages)

    @property
    def pending(self) -> int:
        """Tokens that the model has not yet seen."""
        return len(self.tokens) - self.pages.length

    @property
    def total(self) -> int:
        return self.prompt + self.sampling.max_tokens


class Batcher:
    """Generates for many requests over one cache of `cache_tokens` tokens."""

    def __init__(
        self,
        model: "BloomForCausalLM",
        *,
        cache_tokens: int = 8192,
        chunk: int = 256,
        max_requests: int = 32,
    ) -> None:
        trunk, settings = model.transformer, model.settings
        weight = trunk.embedding.word.weight
        self.model, self.chunk, self.max_requests = model, chunk, max_requests
        self.slopes = trunk.slopes(weight.device)
        if not settings.alibi:
            self.slopes = torch.zeros_like(self.slopes)
        self.cache = BlockCache(
            settings.n_layer,
            len(self.slopes),
            settings.head_dim,
            cache_tokens,
            dtype=weight.dtype,
            device=weight.device,
        )
        self._waiting: deque[_Request] = deque()
        self._running: dict[str, _Request] = {}

    @property
    def active(self) -> int:
        """Requests under way, waiting ones included."""
        return len(self._waiting) + len(self._running)

    def add(self, request_id: str, prompt: Iterable[int], sampling: Sampling) -> None:
        """Takes a request in. InputError if it is empty, has a wrong id, or could never fit."""
        tokens = [int(token) for token in prompt]
        if not tokens:
            raise InputError("the prompt is empty: it has no token to continue")
        wrong = [t for t in tokens if not 0 <= t < self.model.settings.vocab_size]
        if wrong:
            raise InputError(
                f"token id {wrong[0]} is not in 0..{self.model.settings.vocab_size - 1}"
            )
        if request_id in self._running or any(r.request_id == request_id for r in self._waiting):
            raise InputError(f"request id {request_id!r} is already under way")
        request = _Request(request_id, tokens, len(tokens), sampling)
        room = self.cache.blocks * BLOCK
        if request.total > room:
            raise InputError(
                f"a prompt of {len(tokens)} tokens and max_tokens {sampling.max_tokens} exceed "
                f"the {room} tokens of the cache"
            )
        self._waiting.append(request)

    def cancel(self, request_id: str) -> None:
        """Forgets a request; unknown ids are ignored."""
        self._waiting = deque(r for r in self._waiting if r.request_id != request_id)
        if request := self._running.pop(request_id, None):
            self.cache.release(request.pages)

    def close(self) -> None:
        """Forgets everybody."""
        for request in [*self._waiting, *self._running.values()]:
            self.cancel(request.request_id)

    @torch.inference_mode()
    def step(self) -> list[Token]:
        """Runs the model once; returns the tokens that it wrote."""
        self._admit()
        plan = self._plan()
        if not plan:
            return []
        rows, writers = self._run(plan)
        tokens = self._write_all(writers, rows) if writers else []
        for token in tokens:
            if token.finish_reason:
                self.cancel(token.request_id)
        return tokens

    def _admit(self) -> None:
        """Starts waiting requests whose whole need fits, in the order in which they came."""
        while self._waiting and len(self._running) < self.max_requests:
            if not self.cache.fits(self._waiting[0].total):
                return
            request = self._waiting.popleft()
            request.pages = self.cache.reserve(request.total)
            self._running[request.request_id] = request

    def _plan(self) -> list[tuple[_Request, int]]:
        """Which requests run in this step, and how many new tokens of each."""
        plan, budget = [], self.chunk
        for request in self._running.values():
            count = request.pending if request.pending == 1 else min(request.pending, budget)
            if request.pending > 1:
                budget -= count
            if count:
                plan.append((request, count))
        return plan

    def _run(self, plan: list[tuple[_Request, int]]) -> tuple[Tensor, list[_Request]]:
        """Hidden states [R, H] of the R requests whose last token is now known to the model."""
        ids: list[int] = []
        segments, last, writers = [], [], []
        for request, count in plan:
            segments.append(Segment(len(ids), len(ids) + count, request.pages))
            ids += request.tokens[request.pages.length :][:count]
            if count == request.pending:
                last.append(len(ids) - 1)
                writers.append(request)
        hidden = self._forward(ids, segments, last)
        for request, count in plan:
            request.pages.length += count
        return hidden, writers

    def _forward(self, ids: list[int], segments: list[Segment], last: list[int]) -> Tensor:
        """Hidden states [R, H] of the rows `last` of the T new tokens."""
        trunk = self.model.transformer
        context = PagedContext(self.cache, segments, self.slopes, self.cache.keys[0].dtype)
        positions = None
        if trunk.embedding.position is not None:
            starts = [(s.pages.length, s.stop - s.start) for s in segments]
            places = [p + i for p, count in starts for i in range(count)]
            positions = torch.tensor(places, device=self.slopes.device)
        x = trunk.embedding(torch.tensor(ids, device=self.slopes.device), positions)
        every = len(last) == len(ids)
        keep = None if every else torch.tensor(last, dtype=torch.long, device=x.device)
        return trunk.run(x, context, keep)

    def _write_all(self, writers: list[_Request], rows: Tensor) -> list[Token]:
        """One token for each request, from its hidden state in `rows` [R, H]."""
        screen = self.model.screen
        if screen is not None and all(request.sampling.plain for request in writers):
            return [self._write(r, token) for r, token in zip(writers, screen(rows), strict=True)]
        return [
            self._choose(request, logits)
            for request, logits in zip(writers, self.model.logits(rows), strict=True)
        ]

    def _choose(self, request: _Request, logits: Tensor) -> Token:
        sampling = request.sampling
        token = choose(logits, sampling, len(request.tokens), request.tokens)
        return self._write(request, token, logprob_of(logits, token) if sampling.logprobs else None)

    def _write(self, request: _Request, token: int, logprob: float | None = None) -> Token:
        request.tokens.append(token)
        reason = "length" if len(request.tokens) == request.total else None
        if token == self.model.settings.eos_token_id and not request.sampling.ignore_eos:
            reason = "stop"
        return Token(request.request_id, token, reason, logprob)
