"""Sampling: draws follow the probabilities, and depend on the seed and the position alone."""

import pytest
import torch

from cupola.generation import SamplingParams
from cupola.generation.sampling import choose, logprob_of, uniform


def test_samples_follow_the_probabilities() -> None:
    logits = torch.log(torch.tensor([0.5, 0.3, 0.15, 0.05]))
    how = SamplingParams(temperature=1.0, seed=11)
    draws = torch.tensor([choose(logits, how, p, []) for p in range(4000)])
    share = torch.bincount(draws, minlength=4) / 4000
    assert (share - logits.exp()).abs().max() < 0.03
    assert choose(logits, how, 7, []) == choose(logits, how, 7, [])
    assert uniform(1, 2) != uniform(2, 1)


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
