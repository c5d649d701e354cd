"""Scheduler: continuous batching. Requests join and leave at every step; prompts run in chunks.

One step runs the model once over all new tokens: one token of each request that is generating, and
some prompt tokens of the others, `chunk` if nobody generates. A long prompt therefore delays its
neighbors by about the time of one step (arXiv 2308.16369; prefill_budget.py).

A request reserves cache for its prompt and the next tokens, and more as it generates. When the
cache is full, the request that arrived last is preempted: it waits, and its tokens are computed
again.
"""

import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cupola.errors import InputError
from cupola.generation.cache import BlockCache
from cupola.generation.decode_graphs import DecodeGraphs, one_token_each
from cupola.generation.guide import Guide, Guides
from cupola.generation.paged_attention import ExactPagedContext, PagedContext, Segment
from cupola.generation.prefill_budget import PrefillBudget
from cupola.generation.prompt_lookup import guesses
from cupola.generation.protocol import CausalLM, run_layers
from cupola.generation.sampling import SamplingParams, choose, logprob_of, top_of
from cupola.generation.sequence import SequenceState, Token

ROWS = 32  # of logits at a time, for the logprobs of a prompt


@dataclass(frozen=True)
class Part:
    """What one request runs in a step: `count` of its tokens, then guesses of those to come."""

    sequence: SequenceState
    count: int
    guesses: Sequence[int] = ()

    @property
    def ids(self) -> list[int]:
        """The tokens that the model is given."""
        start = self.sequence.table.length
        return [*self.sequence.tokens[start : start + self.count], *self.guesses]

    @property
    def is_ready(self) -> bool:
        """Whether the model then knows all of the request's tokens."""
        return self.count == self.sequence.pending


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
        lookup_tokens: int = 0,
        prefix_cache: bool = True,
    ) -> None:
        """`guides` compile the grammars of requests that have one.

        `lookup_tokens` are guessed by prompt lookup where a choice depends on the logits alone.
        With `prefix_cache`, prompts that begin alike are computed once.
        """
        self.model, self.chunk, self.max_requests = model, chunk, max_requests
        self.guides, self.lookup_tokens, self.prefix_cache = guides, lookup_tokens, prefix_cache
        heads = [layer.heads for layer in model.layers]
        self.slopes, exact = model.alibi_slopes, model.deterministic
        self.context = ExactPagedContext if exact else PagedContext
        self.cache = BlockCache(
            heads, cache_tokens, dtype=model.dtype, device=model.device, factors=exact
        )
        recorded = DecodeGraphs.can_run(model)
        self.graphs = DecodeGraphs(model, self.cache, self.slopes) if recorded else None
        self.budget = PrefillBudget(chunk)
        self.steps = self.guessed = self.accepted = 0
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
        listed += (*sampling.allowed_token_ids, *(id for word in sampling.bad_words for id in word))
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

    @property
    def prefill_tokens(self) -> int:
        """The prompt tokens that the next step may have."""
        running = list(self._running.values())
        return self.budget.tokens(any(r.pending == 1 for r in running))

    @torch.inference_mode()
    def step(self, prefill: int | None = None) -> list[Token]:
        """Runs the model once; returns the tokens that it generated.

        `prefill` is the most prompt tokens of the step [`prefill_tokens`, which other ranks could
        not know; on several, `chunk`]. With prompt lookup a request can get several tokens.
        """
        self._grow()
        self._admit()
        own = self.prefill_tokens if self.model.group.size == 1 else self.chunk
        plan = self._plan(own if prefill is None else prefill)
        if not plan:
            return []
        start = time.perf_counter()
        ready = [part for part in plan if part.is_ready]
        rows = self._run(plan)
        for part in plan:
            part.sequence.table.length += part.count
        tokens = self._next_tokens(ready, rows)
        prompts = [part.count for part in plan if part.count > 1]
        generating = len(plan) > len(prompts)
        self.budget.measured(time.perf_counter() - start, generating, sum(prompts))
        for part in plan:
            self._remember(part.sequence)
        self.steps += 1
        for token in tokens:
            if token.finish_reason:
                self.cancel(token.request_id)
        return tokens

    def _remember(self, sequence: SequenceState) -> None:
        if self.prefix_cache:
            self.cache.remember(sequence.table, sequence.tokens)

    def _admit(self) -> None:
        """Starts waiting requests in the order of their arrival, as far as the cache allows."""
        while self._waiting and len(self._running) < self.max_requests:
            sequence = self._waiting[0]
            reuse = self.prefix_cache and not sequence.reads_prompt
            known = sequence.tokens if reuse else []
            grows = sequence.reserve < sequence.total
            table = self.cache.reserve_after(known, sequence.reserve, grows=grows)
            if table is None:
                return
            sequence.table, sequence.reused = table, min(table.length, sequence.prompt)
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

    def _plan(self, budget: int) -> list[Part]:
        """Which requests run in this step, and with how many of their tokens."""
        plan = []
        for sequence in self._running.values():
            if sequence.pending == 1:
                plan.append(Part(sequence, 1, self._guesses(sequence)))
            elif count := min(sequence.pending, budget):
                budget -= count
                plan.append(Part(sequence, count))
        return plan

    def _guesses(self, sequence: SequenceState) -> list[int]:
        """Tokens that may follow; none where rounding could let them change the text."""
        exact = self.model.deterministic or sequence.sampling.temperature == 0
        space = min(sequence.total, sequence.table.capacity) - len(sequence.tokens)
        most = min(self.lookup_tokens, space - 1)
        return guesses(sequence.tokens, most) if exact and most > 0 else []

    def _run(self, plan: list[Part]) -> Tensor:
        """Hidden states [R, H] of the last token and the guesses of each request that is ready."""
        ids: list[int] = []
        wanted: list[int] = []  # rows whose hidden states are needed
        segments: list[Segment] = []
        chosen: list[int] = []
        readers: list[tuple[SequenceState, slice, list[int]]] = []
        for part in plan:
            sequence, first, start = part.sequence, len(ids), part.sequence.table.length
            ids += part.ids
            segments.append(Segment(first, len(ids), sequence.table))
            if sequence.reads_prompt:
                targets = sequence.tokens[start + 1 : start + 1 + part.count]
                rows = slice(len(wanted), len(wanted) + len(targets))
                readers.append((sequence, rows, targets))
                wanted += range(first, first + len(targets))
            if part.is_ready:
                rest = range(first + part.count - 1, len(ids))
                chosen += range(len(wanted), len(wanted) + len(rest))
                wanted += rest
        hidden = self._forward(ids, segments, wanted)
        for sequence, rows, targets in readers:
            self._read_prompt(sequence, hidden[rows], targets)
        return hidden[chosen] if readers else hidden

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
        if self.graphs is not None and len(last) == len(ids) and one_token_each(segments):
            return self.graphs(ids, segments)
        context = self.context(self.cache, segments, self.slopes)
        x = model.embed(torch.tensor(ids, device=device), context.positions)  # [T, H]
        every = len(last) == len(ids)
        keep = None if every else torch.tensor(last, dtype=torch.long, device=device)
        return model.final_norm(run_layers(model.layers, x, context, keep))

    def _next_tokens(self, ready: list[Part], rows: Tensor) -> list[Token]:
        """The tokens of each request, from the hidden states in `rows` [R, H]."""
        if not ready:
            return []
        shortlist = self.model.shortlist
        plain = all(part.sequence.sampling.needs_only_argmax for part in ready)
        choices: Sequence[int | Tensor] = (
            shortlist(rows) if plain and shortlist is not None else list(self.model.logits(rows))
        )
        tokens: list[Token] = []
        for part in ready:
            count = 1 + len(part.guesses)
            tokens += self._accepted(part, choices[:count])
            choices = choices[count:]
        return tokens

    def _accepted(self, part: Part, choices: Sequence[int | Tensor]) -> list[Token]:
        """One token, and one more for each guess that was right; choices are ids or logits [V]."""
        sequence = part.sequence
        if len(sequence.tokens) == sequence.total:  # a request for no tokens
            return [self._end(sequence)]
        tokens = []
        for choice, guess in zip(choices, [*part.guesses, None], strict=True):
            if isinstance(choice, int):
                token = self._append(sequence, choice)
            else:
                token = self._choose(sequence, choice)
            tokens.append(token)
            if token.finish_reason or token.error or token.token_id != guess:
                break
            sequence.table.length += 1
        self.guessed += len(part.guesses)
        self.accepted += len(tokens) - 1
        return tokens

    def _choose(self, sequence: SequenceState, logits: Tensor) -> Token:
        sampling, tokens = sequence.sampling, sequence.tokens
        ends, open_logits = self._ends(sampling), logits
        if sequence.guide is not None:
            allowed = sequence.guide.allowed(len(logits)).to(logits.device)
            if not allowed.any():
                return self._end(sequence, sequence.guide.error)
            open_logits = logits.masked_fill(~allowed, -torch.inf)
        try:
            token = choose(open_logits, sampling, len(tokens), tokens, sequence.prompt, ends)
        except InputError as error:
            return self._end(sequence, str(error))
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
        reused = sequence.reused if is_first else 0
        return Token(sequence.request_id, token, reason, logprob, top, prompt, error, reused)

    def _end(self, sequence: SequenceState, error: str = "") -> Token:
        prompt = tuple(sequence.prompt_logprobs)
        reason = "length" if len(sequence.tokens) == sequence.total else "stop"
        return Token(sequence.request_id, None, reason, prompt=prompt, error=error)
