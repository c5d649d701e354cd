"""Perplexity and the n-gram baseline."""

import math

import pytest

from cupola.metrics import NGram, Perplexity


def test_perplexity_weighs_by_tokens() -> None:
    metric = Perplexity()
    assert metric.compute() == {}
    metric.update({}, [{"nats": 4.0, "tokens": 2.0}, {"nats": 2.0, "tokens": 4.0}])
    assert metric.compute() == pytest.approx({"nats_per_token": 1.0, "perplexity": math.e})
    metric.reset()
    assert metric.compute() == {}


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("history", [[], [0], [1, 2], [4, 4], [2, 0, 1]])
def test_ngram_probabilities_sum_to_one(order: int, history: list[int]) -> None:
    model = NGram(order, vocab_size=5).fit([0, 1, 2, 0, 1, 3, 0, 1, 2])
    assert sum(model.probability(history, token) for token in range(5)) == pytest.approx(1.0)


def test_longer_contexts_predict_better() -> None:
    row = [0, 1, 0, 2] * 50
    losses = [NGram(order, 3).fit(row).nats_per_token(row) for order in (1, 2, 3)]
    assert losses == sorted(losses, reverse=True)
    assert losses[2] < 0.1 < losses[1]


def test_a_bigram_by_hand() -> None:
    model = NGram(2, vocab_size=2).fit([0, 1, 0, 1])
    unigram = (2 + 2 * 0.5) / (4 + 2)
    assert model.probability([0], 1) == pytest.approx((2 + 1 * unigram) / (2 + 1))
