"""Sampling: draws follow the probabilities, and depend on the seed and the position alone."""

import numpy as np
import pytest
import torch

from cupola.generation import SamplingParams
from cupola.generation.noise import draw, gumbel, uniforms
from cupola.generation.sampling import choose, logprob_of


def test_samples_follow_the_probabilities() -> None:
    logits = torch.log(torch.tensor([0.5, 0.3, 0.15, 0.05]))
    how = SamplingParams(temperature=1.0, seed=11)
    draws = torch.tensor([choose(logits, how, p, []) for p in range(4000)])
    share = torch.bincount(draws, minlength=4) / 4000
    assert (share - logits.exp()).abs().max() < 0.03
    assert choose(logits, how, 7, []) == choose(logits, how, 7, [])
    ids = np.arange(3)
    assert (uniforms(1, 2, ids) != uniforms(2, 1, ids)).all()


def test_noise_belongs_to_the_token_and_follows_its_distribution() -> None:
    ids = np.arange(200_000)
    noise, numbers = gumbel(5, 9, ids), uniforms(5, 9, ids)
    assert (gumbel(5, 9, ids[::7]) == noise[::7]).all() and len(set(numbers)) == len(ids)
    assert noise.mean() == pytest.approx(np.euler_gamma, abs=0.02)
    assert np.histogram(numbers, 10, (0, 1))[0] == pytest.approx(20_000, rel=0.05)
    by_position = np.array([uniforms(5, p, ids[:1])[0] for p in range(2000)])
    assert abs(np.corrcoef(by_position[:-1], by_position[1:])[0, 1]) < 0.1


@pytest.mark.parametrize("spread", [0.0, 1.0, 5.0, 60.0])
def test_the_largest_sum_of_many_is_found_among_a_few(spread: float) -> None:
    logits = torch.randn(20_000, generator=torch.Generator().manual_seed(2)) * spread
    for seed in range(20):
        sums = logits.double().numpy() + gumbel(seed, 3, np.arange(20_000))
        assert draw(logits, None, seed, 3) == sums.argmax()
        assert draw(logits, torch.arange(20_000), seed, 3) == sums.argmax()


def test_top_k_and_top_p_cut_the_tail() -> None:
    logits = torch.log(torch.tensor([0.05, 0.5, 0.15, 0.3]))
    for how, allowed in (
        (SamplingParams(temperature=1.0, top_k=2), {1, 3}),
        (SamplingParams(temperature=1.0, top_p=0.6), {1, 3}),
        (SamplingParams(temperature=1.0, top_p=0.01), {1}),
        (SamplingParams(temperature=1.0, top_k=3, top_p=0.9), {1, 2, 3}),
    ):
        assert {choose(logits, how, p, []) for p in range(300)} == allowed


def test_a_wide_nucleus_looks_at_every_token() -> None:
    logits = torch.zeros(3000)
    how = SamplingParams(temperature=1.0, top_p=0.99)
    assert max(choose(logits, how, p, []) for p in range(200)) > 2000


def test_the_penalty_makes_seen_tokens_less_likely() -> None:
    logits = torch.tensor([2.0, 1.9, -1.0])
    assert choose(logits, SamplingParams(repetition_penalty=1.2), 0, [0]) == 1
    assert choose(-logits, SamplingParams(repetition_penalty=9.0), 0, [2]) == 2
    assert logprob_of(logits, 0) == pytest.approx(float(logits.log_softmax(0)[0]))
