"""Scheduler: continuous batching. Requests join and leave at every step; prompts run in chunks.

One step runs the model once over all new tokens: one token of each request that is generating, and
up to `chunk` prompt tokens of the others. A long prompt therefore delays its neighbors by one chunk
at most (arXiv 2308.16369).

A request reserves cache for its prompt and the next tokens, and more as it generates. When the
cache is full, the request that arrived last is preempted: it waits, and its tokens are computed
again.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from cupola.errors import InputError
from cupola.generation.cache import BlockCache, BlockTable
from cupola.generation.guide import Guide, Guides
from cupola.generation.paged_attention import PagedContext, Segment
from cupola.generation.protocol import CausalLM, run_layers
from cupola.generation.sampling import SamplingParams, choose, logprob_of, top_of

GROWTH = 128  # tokens that a request reserves beyond those it has
ROWS = 32  # of logits at a time, for the logprobs of a prompt


@dataclass(frozen=True)
class Token:
    """One new token; `finish_reason` is None, "stop" (end of text) or "length".

    A request for no tokens ends with one whose `token_id` is None, and so does one that fails, with
    an `error`. `top` lists the likeliest ids
    with their logprobs. The first token has `prompt`, where it was asked for: for each token of the
    prompt but the first its logprob and the likeliest ones.
    """

    request_id: str
    token_id: int | None
    finish_reason: str | None = None
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()
    prompt: tuple[tuple[float, tuple[tuple[int, float], ...]], ...] = ()
    error: str = ""


@dataclass
class SequenceState:
    """One request's tokens so far, and where their keys and values are."""

    request_id: str
    tokens: list[int]  # the prompt, then what was generated
    prompt: int
    sampling: SamplingParams
    guide: Guide | None = None
    table: BlockTable = field(default_factory=BlockTable)
    prompt_logprobs: list[tuple[float, tuple[tuple[int, float], ...]]] = field(default_factory=list)

    @property
    def reads_prompt(self) -> bool:
        """Whether the logits of its next tokens are wanted, as they are the prompt's."""
        return self.sampling.prompt_logprobs and len(self.tokens) == self.prompt

    @property
    def pending(self) -> int:
        """Tokens that the model has not yet seen."""
        return len(self.tokens) - self.table.length

    @property
    def total(self) -> int:
        """Tokens that the sequence may come to."""
        return self.prompt + self.sampling.max_tokens

    @property
    def reserve(self) -> int:
        """Tokens to reserve cache for now."""
        return min(self.total, len(self.tokens) + GROWTH)


class Scheduler:
    """Generates for many requests over one cache of `cache_tokens` tokens."""

    def __init__(
        self,
        model: CausalLM,
        *,
        cache_tokens: int = 8192,
        chunk: int = 256,
        max_requests: int = 32,
        guides: Guides | None = None,
    ) -> None:
        """`guides` compile the grammars of requests that have one."""
        self.model, self.chunk, self.max_requests = model, chunk, max_requests
        self.guides = guides
        heads = [layer.heads for layer in model.layers]
        self.slopes = model.alibi_slopes
        self.cache = BlockCache(heads, cache_tokens, dtype=model.dtype, device=model.device)
        self._waiting: deque[SequenceState] = deque()
        self._running: dict[str, SequenceState] = {}

    @property
    def active(self) -> int:
        """Requests in progress, waiting ones included."""
        return len(self._waiting) + len(self._running)

    @property
    def end_token_ids(self) -> frozenset[int]:
        """Tokens that end a text."""
        return self.model.settings.end_token_ids

    @property
    def preempted(self) -> list[str]:
        """The waiting requests that have generated tokens."""
        return [r.request_id for r in self._waiting if len(r.tokens) > r.prompt]

    def add(
        self,
        request_id: str,
        prompt: Iterable[int],
        sampling: SamplingParams,
        written: Sequence[int] = (),
    ) -> None:
        """Accepts a request, of which the tokens `written` were already generated elsewhere.

        InputError if it is empty, has a wrong id, or could never fit.
        """
        tokens = [int(token) for token in prompt]
        if not tokens:
            raise InputError("the prompt is empty: it has no token to continue")
        vocabulary = self.model.settings.vocab_size
        listed = (*tokens, *sampling.stop_token_ids, *(token for token, _ in sampling.logit_bias))
        wrong = [token for token in listed if not 0 <= token < vocabulary]
        if wrong:
            raise InputError(f"token id {wrong[0]} is not in 0..{vocabulary - 1}")
        if request_id in self._running or any(r.request_id == request_id for r in self._waiting):
            raise InputError(f"request id {request_id!r} is already in progress")
        guide = self._guide(sampling.grammar, written)
        sequence = SequenceState(request_id, [*tokens, *written], len(tokens), sampling, guide)
        limits = {"the cache": self.cache.capacity, "the model": self.model.settings.max_length}
        for owner, limit in limits.items():
            if limit is not None and sequence.total > limit:
                raise InputError(
                    f"a prompt of {len(tokens)} tokens and max_tokens {sampling.max_tokens} exceed "
                    f"the {limit} tokens of {owner}"
                )
        self._waiting.append(sequence)

    def _guide(self, grammar: str, written: Sequence[int]) -> Guide | None:
        if not grammar:
            return None
        if self.guides is None:
            raise InputError("this model has no tokenizer with which to follow a grammar")
        guide = self.guides.start(grammar)
        for token in written:
            guide.accept(token)
        return guide

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
        self._grow()
        self._admit()
        plan = self._plan()
        if not plan:
            return []
        rows, ready = self._run(plan)
        done = [r for r in ready if len(r.tokens) == r.total]  # requests for no tokens
        tokens = [self._end(sequence) for sequence in done]
        if done:
            left = [place for place, r in enumerate(ready) if r not in done]
            rows, ready = rows[left], [ready[place] for place in left]
        tokens += self._next_tokens(ready, rows) if ready else []
        for token in tokens:
            if token.finish_reason:
                self.cancel(token.request_id)
        return tokens

    def _admit(self) -> None:
        """Starts waiting requests in the order of their arrival, as far as the cache allows."""
        while self._waiting and len(self._running) < self.max_requests:
            sequence = self._waiting[0]
            if not self.cache.fits(sequence.reserve):
                return
            grows = sequence.reserve < sequence.total
            place = self.cache.reserve_growing if grows else self.cache.reserve
            sequence.table = place(sequence.reserve)
            self._running[sequence.request_id] = self._waiting.popleft()

    def _grow(self) -> None:
        """Reserves cache for the tokens of this step, the oldest request first."""
        for sequence in list(self._running.values()):
            while sequence.request_id in self._running and not self._holds(sequence):
                self._preempt(next(reversed(self._running)))

    def _holds(self, sequence: SequenceState) -> bool:
        """Whether there is cache for all tokens of a sequence, extended where it has to be."""
        if len(sequence.tokens) <= sequence.table.capacity:
            return True
        return self.cache.extend(sequence.table, sequence.reserve)

    def _preempt(self, request_id: str) -> None:
        """Lets a request wait, ahead of those that have not begun."""
        sequence = self._running.pop(request_id)
        self.cache.release(sequence.table)
        if len(sequence.tokens) == sequence.prompt:
            sequence.prompt_logprobs.clear()  # they are read again
        self._waiting.appendleft(sequence)

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
        wanted: list[int] = []  # rows whose hidden states are needed
        segments, last, ready = [], [], []
        readers: list[tuple[SequenceState, slice, list[int]]] = []
        for sequence, count in plan:
            first, start = len(ids), sequence.table.length
            segments.append(Segment(first, first + count, sequence.table))
            ids += sequence.tokens[start:][:count]
            if sequence.reads_prompt:
                targets = sequence.tokens[start + 1 : start + 1 + count]
                rows = slice(len(wanted), len(wanted) + len(targets))
                readers.append((sequence, rows, targets))
                wanted += range(first, first + len(targets))
            if count == sequence.pending:
                last.append(len(wanted))
                wanted.append(len(ids) - 1)
                ready.append(sequence)
        hidden = self._forward(ids, segments, wanted)
        for sequence, rows, targets in readers:
            self._read_prompt(sequence, hidden[rows], targets)
        for sequence, count in plan:
            sequence.table.length += count
        return (hidden[last] if readers else hidden), ready

    def _read_prompt(self, sequence: SequenceState, hidden: Tensor, targets: list[int]) -> None:
        """Adds the logprobs of prompt tokens `targets`, which follow the states `hidden`."""
        count = sequence.sampling.top_logprobs
        for start in range(0, len(targets), ROWS):
            logits = self.model.logits(hidden[start : start + ROWS])
            for row, target in zip(logits, targets[start : start + ROWS], strict=True):
                top = tuple(top_of(row, count, target)) if count else ()
                sequence.prompt_logprobs.append((logprob_of(row, target), top))

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
        ends, open_logits = self._ends(sampling), logits
        if sequence.guide is not None:
            allowed = sequence.guide.allowed(len(logits)).to(logits.device)
            if not allowed.any():
                return self._end(sequence, sequence.guide.error)
            open_logits = logits.masked_fill(~allowed, -torch.inf)
        token = choose(open_logits, sampling, len(tokens), tokens, sequence.prompt, ends)
        logprob = logprob_of(logits, token) if sampling.logprobs else None
        top = top_of(logits, sampling.top_logprobs, token) if sampling.top_logprobs else []
        return self._append(sequence, token, logprob, tuple(top))

    def _ends(self, sampling: SamplingParams) -> set[int]:
        """The tokens that end a request."""
        ends = set() if sampling.ignore_eos else set(self.model.settings.end_token_ids)
        return ends.union(sampling.stop_token_ids)

    def _append(
        self,
        sequence: SequenceState,
        token: int,
        logprob: float | None = None,
        top: tuple[tuple[int, float], ...] = (),
    ) -> Token:
        is_first = len(sequence.tokens) == sequence.prompt
        sequence.tokens.append(token)
        reason = "length" if len(sequence.tokens) == sequence.total else None
        if token in self._ends(sequence.sampling):
            reason = "stop"
        error = ""
        if sequence.guide is not None:
            sequence.guide.accept(token)
            reason = "stop" if sequence.guide.ended else reason
            error = sequence.guide.error
        prompt = tuple(sequence.prompt_logprobs) if is_first else ()
        return Token(sequence.request_id, token, reason, logprob, top, prompt, error)

    def _end(self, sequence: SequenceState, error: str = "") -> Token:
        prompt = tuple(sequence.prompt_logprobs)
        reason = "length" if len(sequence.tokens) == sequence.total else "stop"
        return Token(sequence.request_id, None, reason, prompt=prompt, error=error)
