"""Scheduler: continuous batching. Requests join and leave at every step; prompts run in chunks.

One step runs the model once over all new tokens: one token of each request that is generating, and
up to `chunk` prompt tokens of the others. A long prompt therefore delays its neighbors by one chunk
at most (arXiv 2308.16369).
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from cupola.errors import InputError
from cupola.generation.cache import BlockCache, BlockTable
from cupola.generation.paged_attention import PagedContext, Segment
from cupola.generation.protocol import CausalLM, run_layers
from cupola.generation.sampling import SamplingParams, choose, logprob_of


@dataclass(frozen=True)
class Token:
    """One new token; `finish_reason` is None, "stop" (end of text) or "length"."""

    request_id: str
    token_id: int
    finish_reason: str | None = None
    logprob: float | None = None


@dataclass
class SequenceState:
    """One request's tokens so far, and where their keys and values are."""

    request_id: str
    tokens: list[int]  # the prompt, then what was generated
    prompt: int
    sampling: SamplingParams
    table: BlockTable = field(default_factory=BlockTable)

    @property
    def pending(self) -> int:
        """Tokens that the model has not yet seen."""
        return len(self.tokens) - self.table.length

    @property
    def total(self) -> int:
        """Tokens that the sequence may come to."""
        return self.prompt + self.sampling.max_tokens


class Scheduler:
    """Generates for many requests over one cache of `cache_tokens` tokens."""

    def __init__(
        self,
        model: CausalLM,
        *,
        cache_tokens: int = 8192,
        chunk: int = 256,
        max_requests: int = 32,
    ) -> None:
        self.model, self.chunk, self.max_requests = model, chunk, max_requests
        heads = [layer.heads for layer in model.layers]
        self.slopes = model.alibi_slopes
        self.cache = BlockCache(heads, cache_tokens, dtype=model.dtype, device=model.device)
        self._waiting: deque[SequenceState] = deque()
        self._running: dict[str, SequenceState] = {}

    @property
    def active(self) -> int:
        """Requests in progress, waiting ones included."""
        return len(self._waiting) + len(self._running)

    def add(self, request_id: str, prompt: Iterable[int], sampling: SamplingParams) -> None:
        """Accepts a request. InputError if it is empty, has a wrong id, or could never fit."""
        tokens = [int(token) for token in prompt]
        if not tokens:
            raise InputError("the prompt is empty: it has no token to continue")
        vocabulary = self.model.settings.vocab_size
        wrong = [token for token in tokens if not 0 <= token < vocabulary]
        if wrong:
            raise InputError(f"token id {wrong[0]} is not in 0..{vocabulary - 1}")
        if request_id in self._running or any(r.request_id == request_id for r in self._waiting):
            raise InputError(f"request id {request_id!r} is already in progress")
        sequence = SequenceState(request_id, tokens, len(tokens), sampling)
        limits = {"the cache": self.cache.capacity, "the model": self.model.settings.max_length}
        for owner, limit in limits.items():
            if limit is not None and sequence.total > limit:
                raise InputError(
                    f"a prompt of {len(tokens)} tokens and max_tokens {sampling.max_tokens} exceed "
                    f"the {limit} tokens of {owner}"
                )
        self._waiting.append(sequence)

    def cancel(self, request_id: str) -> None:
        """Drops a request; unknown ids are ignored."""
        self._waiting = deque(r for r in self._waiting if r.request_id != request_id)
        if sequence := self._running.pop(request_id, None):
            self.cache.release(sequence.table)

    def close(self) -> None:
        """Drops every request."""
        for sequence in [*self._waiting, *self._running.values()]:
            self.cancel(sequence.request_id)

    @torch.inference_mode()
    def step(self) -> list[Token]:
        """Runs the model once; returns the tokens that it generated."""
        self._admit()
        plan = self._plan()
        if not plan:
            return []
        rows, ready = self._run(plan)
        tokens = self._next_tokens(ready, rows) if ready else []
        for token in tokens:
            if token.finish_reason:
                self.cancel(token.request_id)
        return tokens

    def _admit(self) -> None:
        """Starts waiting requests whose whole need fits, in the order of their arrival."""
        while self._waiting and len(self._running) < self.max_requests:
            if not self.cache.fits(self._waiting[0].total):
                return
            sequence = self._waiting.popleft()
            sequence.table = self.cache.reserve(sequence.total)
            self._running[sequence.request_id] = sequence

    def _plan(self) -> list[tuple[SequenceState, int]]:
        """Which requests run in this step, and how many new tokens of each."""
        plan, budget = [], self.chunk
        for sequence in self._running.values():
            count = sequence.pending if sequence.pending == 1 else min(sequence.pending, budget)
            if sequence.pending > 1:
                budget -= count
            if count:
                plan.append((sequence, count))
        return plan

    def _run(self, plan: list[tuple[SequenceState, int]]) -> tuple[Tensor, list[SequenceState]]:
        """Hidden states [R, H] of the R requests whose last token the model now knows."""
        ids: list[int] = []
        segments, last, ready = [], [], []
        for sequence, count in plan:
            segments.append(Segment(len(ids), len(ids) + count, sequence.table))
            ids += sequence.tokens[sequence.table.length :][:count]
            if count == sequence.pending:
                last.append(len(ids) - 1)
                ready.append(sequence)
        hidden = self._forward(ids, segments, last)
        for sequence, count in plan:
            sequence.table.length += count
        return hidden, ready

    def _forward(self, ids: list[int], segments: list[Segment], last: list[int]) -> Tensor:
        """Hidden states [R, H] of the rows `last` of the T new tokens."""
        model, device = self.model, self.model.device
        context = PagedContext(self.cache, segments, self.slopes)
        x = model.embed(torch.tensor(ids, device=device), context.positions)  # [T, H]
        every = len(last) == len(ids)
        keep = None if every else torch.tensor(last, dtype=torch.long, device=device)
        return model.final_norm(run_layers(model.layers, x, context, keep))

    def _next_tokens(self, ready: list[SequenceState], rows: Tensor) -> list[Token]:
        """One token for each request, from its hidden state in `rows` [R, H]."""
        shortlist = self.model.shortlist
        if shortlist is not None and all(r.sampling.needs_only_argmax for r in ready):
            return [self._append(r, id_) for r, id_ in zip(ready, shortlist(rows), strict=True)]
        return [
            self._choose(sequence, logits)
            for sequence, logits in zip(ready, self.model.logits(rows), strict=True)
        ]

    def _choose(self, sequence: SequenceState, logits: Tensor) -> Token:
        sampling, tokens = sequence.sampling, sequence.tokens
        token = choose(logits, sampling, len(tokens), tokens)
        logprob = logprob_of(logits, token) if sampling.logprobs else None
        return self._append(sequence, token, logprob)

    def _append(self, sequence: SequenceState, token: int, logprob: float | None = None) -> Token:
        sequence.tokens.append(token)
        reason = "length" if len(sequence.tokens) == sequence.total else None
        if token in self.model.settings.end_token_ids and not sequence.sampling.ignore_eos:
            reason = "stop"
        return Token(sequence.request_id, token, reason, logprob)
