"""Perplexity of a language model, and an n-gram model as a baseline."""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from cupola.registry import METRICS


@METRICS.register_module()
class Perplexity:
    """Mean loss in nats per token over all samples, and its exponential."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Discards all samples."""
        self.nats = self.tokens = 0.0

    def update(self, batch: Mapping[str, Any], predictions: Sequence[Mapping[str, float]]) -> None:
        """Adds predictions {"nats", "tokens"}, one per sample."""
        self.nats += sum(each["nats"] for each in predictions)
        self.tokens += sum(each["tokens"] for each in predictions)

    def compute(self) -> dict[str, float]:
        """{"nats_per_token": ..., "perplexity": ...}; empty without tokens."""
        if not self.tokens:
            return {}
        mean = self.nats / self.tokens
        return {"nats_per_token": mean, "perplexity": math.exp(mean)}


class NGram:
    """An n-gram model with Witten-Bell interpolation down to the uniform distribution.

    p(w | h) = (count(h, w) + T(h) p(w | shorter h)) / (count(h) + T(h)), where T(h) is the number
    of different words seen after h (Witten and Bell 1991).
    """

    def __init__(self, order: int, vocab_size: int) -> None:
        self.order, self.vocab_size = order, vocab_size
        self._counts: list[dict[tuple[int, ...], Counter[int]]] = [
            defaultdict(Counter) for _ in range(order)
        ]
        self._totals: list[dict[tuple[int, ...], int]] = []

    def fit(self, tokens: Sequence[int]) -> "NGram":
        """Counts every n-gram up to the order."""
        row = [int(token) for token in tokens]
        for size in range(self.order):
            counts = self._counts[size]
            for end in range(size, len(row)):
                counts[tuple(row[end - size : end])][row[end]] += 1
        self._totals = [{h: c.total() for h, c in counts.items()} for counts in self._counts]
        return self

    def probability(self, history: Sequence[int], token: int) -> float:
        """p(token | history); only the last order - 1 tokens of the history matter."""
        chance = 1.0 / self.vocab_size
        for size in range(min(self.order, len(history) + 1)):
            context = tuple(history[len(history) - size :])
            followers = self._counts[size].get(context)
            if followers is None:
                break
            kinds = len(followers)
            total = self._totals[size][context]
            chance = (followers[token] + kinds * chance) / (total + kinds)
        return chance

    def nats_per_token(self, tokens: Sequence[int]) -> float:
        """Mean negative log-probability of a sequence of tokens, without the first."""
        row = [int(token) for token in tokens]
        keep = self.order - 1
        losses = [
            -math.log(self.probability(row[max(0, i - keep) : i], row[i]))
            for i in range(1, len(row))
        ]
        return sum(losses) / len(losses)
