"""Choosing the next token: greedy, temperature, top-k, top-p, repetition penalty.

The random number of a choice is a function of (the request's seed, the token's position), so a
request's text does not depend on what else is in its batch or on when it arrived.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cupola.errors import InputError

NUCLEUS_FIRST_LOOK = 1024  # sorting all logits of a large vocabulary would be slow


@dataclass(frozen=True)
class SamplingParams:
    """How one request is sampled. Temperature 0 is greedy; top_k 0 and top_p 1 turn those off."""

    max_tokens: int = 20
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0  # above 1, tokens that have occurred become less likely
    seed: int = 0
    logprobs: bool = False
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        checks = {
            "max_tokens must be at least 1": self.max_tokens >= 1,
            "temperature must not be negative": self.temperature >= 0,
            "top_k must not be negative": self.top_k >= 0,
            "top_p must be in (0, 1]": 0 < self.top_p <= 1,
            "repetition_penalty must be positive": self.repetition_penalty > 0,
            "seed must not be negative": self.seed >= 0,
        }
        for message, valid in checks.items():
            if not valid:
                raise InputError(message)

    @property
    def needs_only_argmax(self) -> bool:
        """Whether the id of the largest logit is all that is needed."""
        return self.temperature == 0 and self.repetition_penalty == 1 and not self.logprobs


def uniform(seed: int, position: int) -> float:
    """A random number in [0, 1), a function of its arguments (Philox counter generator)."""
    bits = np.random.Philox(key=np.array([seed, position], dtype=np.uint64))
    return float(np.random.Generator(bits).random())


def choose(logits: Tensor, sampling: SamplingParams, position: int, seen: Sequence[int]) -> int:
    """The next token id from logits [V]; `seen` are the ids so far, for the penalty."""
    if sampling.repetition_penalty != 1.0 and len(seen):
        logits = _penalized(logits, sampling.repetition_penalty, seen)
    if sampling.temperature == 0:
        return int(logits.argmax())
    values, ids = _candidates(logits.float() / sampling.temperature, sampling)
    cumulative = values.double().softmax(0).cumsum(0)
    target = uniform(sampling.seed, position) * float(cumulative[-1])
    index = int(torch.searchsorted(cumulative, target, right=True).clamp(max=len(cumulative) - 1))
    return index if ids is None else int(ids[index])


def logprob_of(logits: Tensor, token: int) -> float:
    """Natural logarithm of a token's probability, before temperature and penalty."""
    wide = logits.float()
    return float(wide[token] - wide.logsumexp(0))


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
    return values, ids


def _nucleus(values: Tensor, ids: Tensor | None, top_p: float) -> tuple[Tensor, Tensor]:
    """The fewest most likely tokens whose probabilities together reach `top_p`."""
    total = values.logsumexp(0)
    look = min(NUCLEUS_FIRST_LOOK, len(values))
    while True:
        best, order = values.topk(look)
        before = (best - total).exp().cumsum(0) - (best - total).exp()
        keep = int((before < top_p).sum())
        if keep < look or look == len(values):
            break
        look = len(values)
    order = order[:keep]
    return best[:keep], order if ids is None else ids[order]
