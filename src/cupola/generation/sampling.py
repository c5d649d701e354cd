"""Choosing the next token: penalties and biases, greedy, temperature, top-k, top-p, min-p.

The random numbers of a choice are a function of (the request's seed, the position, the token), so a
request's text does not depend on what else is in its batch or on when it arrived (noise.py).
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cupola.errors import InputError
from cupola.generation.exact_attention import rounded
from cupola.generation.noise import draw
from cupola.parallel import by_lanes

NUCLEUS_FIRST_LOOK = 1024  # sorting all logits of a large vocabulary would be slow


@dataclass(frozen=True)
class SamplingParams:
    """How one request is sampled. Temperature 0 is greedy; top_k 0 and top_p 1 turn those off.

    Frequency and presence penalties are subtracted from the logits of generated tokens (OpenAI's
    definition); the repetition penalty divides those of all tokens so far, the prompt included.
    """

    max_tokens: int = 20
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0  # above 1, tokens that have occurred become less likely
    seed: int = 0
    logprobs: bool = False
    ignore_eos: bool = False
    min_p: float = 0.0  # tokens below this part of the likeliest one's probability are left out
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()  # (token id, what is added to its logit)
    stop_token_ids: tuple[int, ...] = ()
    min_tokens: int = 0  # before so many, neither an end token nor a stop token is chosen
    top_logprobs: int = 0  # how many of the likeliest tokens are listed with each logprob
    prompt_logprobs: bool = False
    grammar: str = ""  # which the text follows; see guide.py
    allowed_token_ids: tuple[int, ...] = ()  # no other token is chosen [all are allowed]
    bad_words: tuple[tuple[int, ...], ...] = ()  # token ids that never follow one another

    def __post_init__(self) -> None:
        checks = {
            "max_tokens must not be negative": self.max_tokens >= 0,
            "temperature must not be negative": self.temperature >= 0,
            "top_k must not be negative": self.top_k >= 0,
            "top_p must be in (0, 1]": 0 < self.top_p <= 1,
            "repetition_penalty must be positive": self.repetition_penalty > 0,
            "seed must not be negative": self.seed >= 0,
            "min_p must be in [0, 1]": 0 <= self.min_p <= 1,
            "frequency_penalty must be in -2..2": -2 <= self.frequency_penalty <= 2,
            "presence_penalty must be in -2..2": -2 <= self.presence_penalty <= 2,
            "min_tokens must be in 0..max_tokens": 0 <= self.min_tokens <= self.max_tokens,
            "top_logprobs must be in 0..20": 0 <= self.top_logprobs <= 20,
            "min_tokens must be 0 with a grammar": not (self.grammar and self.min_tokens),
        }
        for message, valid in checks.items():
            if not valid:
                raise InputError(message)

    @property
    def needs_only_argmax(self) -> bool:
        """Whether the id of the largest logit is all that is needed."""
        plain = not self.logprobs and not self.changes_logits and not self.grammar
        return self.temperature == 0 and plain

    @property
    def changes_logits(self) -> bool:
        """Whether penalties, biases, exclusions or a minimum length apply."""
        penalties = self.frequency_penalty or self.presence_penalty or self.logit_bias
        return bool(self.repetition_penalty != 1 or penalties or self.excludes)

    @property
    def excludes(self) -> bool:
        """Whether some tokens may not be chosen."""
        return bool(self.min_tokens or self.allowed_token_ids or self.bad_words)


def choose(
    logits: Tensor,
    sampling: SamplingParams,
    position: int,
    seen: Sequence[int],
    prompt: int | None = None,
    ends: Collection[int] = (),
) -> int:
    """The next token id from logits [V]; `seen` are the ids so far, for the penalties.

    The first `prompt` of them were given, the others generated [all were given]. `ends` are the
    tokens that may not be chosen before `min_tokens`. InputError if no token is left.
    """
    if sampling.changes_logits:
        generated = seen[len(seen) if prompt is None else prompt :]
        logits = changed(logits, sampling, seen, generated, ends)
    if sampling.excludes and logits.amax() == -torch.inf:
        raise InputError("no token is left: what the request excludes is all that could follow")
    if sampling.temperature == 0:
        return int(logits.argmax())
    values, ids = _candidates(logits.float() / sampling.temperature, sampling)
    return draw(values, ids, sampling.seed, position)


def changed(
    logits: Tensor,
    sampling: SamplingParams,
    seen: Sequence[int],
    generated: Sequence[int],
    ends: Collection[int],
) -> Tensor:
    """Logits [V] after penalties and biases; -inf for what is excluded, as are ends at first."""
    if sampling.repetition_penalty != 1.0 and len(seen):
        logits = _penalized(logits, sampling.repetition_penalty, seen)
    logits = logits.float().clone()
    if (sampling.frequency_penalty or sampling.presence_penalty) and len(generated):
        given = torch.tensor(list(generated), device=logits.device)
        ids, counts = torch.unique(given, return_counts=True)
        logits[ids] -= sampling.frequency_penalty * counts + sampling.presence_penalty
    for token, bias in sampling.logit_bias:
        logits[token] += bias
    if len(generated) < sampling.min_tokens and ends:
        logits[sorted(ends)] = -torch.inf
    if sampling.allowed_token_ids:
        allowed = torch.tensor(sampling.allowed_token_ids, device=logits.device)
        logits = torch.full_like(logits, -torch.inf).index_copy_(0, allowed, logits[allowed])
    for *first, last in sampling.bad_words:
        if first == list(generated[len(generated) - len(first) :]):
            logits[last] = -torch.inf
    return logits


def top_of(logits: Tensor, count: int, token: int) -> list[tuple[int, float]]:
    """The `count` likeliest ids with the logarithms of their probabilities, then `token`'s own."""
    wide = logits.float()
    total = log_sum(wide)
    values, ids = wide.topk(min(count, len(wide)))
    found = [(int(i), float(v) - total) for i, v in zip(ids, values, strict=True)]
    listed = any(i == token for i, _ in found)
    return found if listed else [*found, (token, float(wide[token]) - total)]


def logprob_of(logits: Tensor, token: int) -> float:
    """Natural logarithm of a token's probability, before temperature and penalty."""
    wide = logits.float()
    return float(wide[token]) - log_sum(wide)


def log_sum(logits: Tensor) -> float:
    """log(sum(exp(logits))), the same for any number of threads: the sum is exact.

    Terms are rounded to multiples of 2^-33 of the largest; a million of them fit in float64.
    """
    largest = logits.amax()
    terms = by_lanes(torch.exp, logits - largest).double()
    return float(largest) + math.log(float(rounded(terms, terms.new_ones(()), 34).sum()))


def _penalized(logits: Tensor, penalty: float, seen: Sequence[int]) -> Tensor:
    ids = torch.tensor(sorted(set(seen)), device=logits.device)
    scores = logits[ids]
    return logits.index_copy(0, ids, torch.where(scores < 0, scores * penalty, scores / penalty))


def _candidates(logits: Tensor, sampling: SamplingParams) -> tuple[Tensor, Tensor | None]:
    """The logits of the tokens that may be drawn, and their ids (None: all, in order)."""
    values: Tensor = logits
    ids: Tensor | None = None
    if sampling.top_k and sampling.top_k < len(logits):
        values, ids = logits.topk(sampling.top_k)
    if sampling.top_p < 1.0:
        values, ids = _nucleus(values, ids, sampling.top_p)
    if sampling.min_p > 0.0:
        kept = (values >= values.max() + math.log(sampling.min_p)).nonzero()[:, 0]
        values, ids = values[kept], kept if ids is None else ids[kept]
    return values, ids


def _nucleus(values: Tensor, ids: Tensor | None, top_p: float) -> tuple[Tensor, Tensor]:
    """The fewest most likely tokens whose probabilities together reach `top_p`."""
    total = log_sum(values)
    look = min(NUCLEUS_FIRST_LOOK, len(values))
    while True:
        best, order = values.topk(look)
        shares = by_lanes(torch.exp, best - total)
        before = shares.cumsum(0) - shares
        keep = int((before < top_p).sum())
        if keep < look or look == len(values):
            break
        look = len(values)
    order = order[:keep]
    return best[:keep], order if ids is None else ids[order]
