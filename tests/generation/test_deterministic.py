"""Deterministic models: tokens and logprobs have the same bits, however they are computed."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from cupola.errors import InputError
from cupola.generation import SamplingParams, Scheduler
from cupola.generation import exact_attention as attention
from cupola.models.bloom import BloomForCausalLM
from cupola.parallel import SINGLE, by_lanes, independent, storage
from cupola.parallel.half_matrix import multiplies_half
from cupola.parallel.independent import DotProducts, InputParts, sum_in_pairs
from cupola.runtime.optimize.language import optimize
from deterministic_texts import deterministic, on_ranks, requests, texts
from ranks import RankPool

KINDS = [
    ("bloom", "float32", "none"),
    ("bloom", "bfloat16", "none"),
    ("bloom", "float16", "packed"),
    ("bloom", "float32", "int8"),
    ("llama", "float32", "packed"),
    ("llama", "bfloat16", "none"),
]


@pytest.mark.parametrize(("family", "dtype", "how"), KINDS)
def test_texts_do_not_depend_on_their_neighbors(family: str, dtype: str, how: str) -> None:
    model, asked = deterministic(family, dtype, how), requests(12, 6)
    alone = texts(model, asked, prefix_cache=False)
    for crowd, options in (
        (1, {"chunk": 5}),
        (5, {"chunk": 16}),
        (12, {"lookup_tokens": 4}),
        (12, {"chunk": 33, "prefix_cache": False}),
    ):
        assert texts(model, asked, crowd, **options) == alone, (crowd, options)


@pytest.mark.parametrize(("family", "dtype", "how"), KINDS[:5])
def test_texts_do_not_depend_on_the_number_of_ranks(
    family: str, dtype: str, how: str, ranks: RankPool
) -> None:
    alone = texts(deterministic(family, dtype, how), requests(6, 4))
    for found in ranks.run(on_ranks, family, dtype, requests(6, 4), 3, how):
        assert found == alone


def test_greedy_texts_are_the_same_with_and_without_the_shortlist() -> None:
    model = deterministic("bloom", "float16", "packed")
    asked = [([number + 1], SamplingParams(20, ignore_eos=True)) for number in range(8)]
    assert model.shortlist is not None
    found = texts(model, asked, 8)
    model.shortlist = None
    assert texts(model, asked, 3) == found


@pytest.mark.parametrize("stop", [1, 3, 7])
def test_a_text_goes_on_where_it_was_interrupted(stop: int) -> None:
    model, asked = deterministic("bloom"), requests(8)
    whole = texts(model, asked)
    for number, (prompt, sampling) in enumerate(asked):
        scheduler = Scheduler(model, cache_tokens=512)
        written = [token for token, _ in whole[number][:stop]]
        scheduler.add("other", [5], SamplingParams(30, ignore_eos=True))
        scheduler.add("x", prompt, sampling, written)
        rest = []
        while len(rest) < len(whole[number]) - stop:
            rest += [(t.token_id, t.logprob) for t in scheduler.step() if t.request_id == "x"]
        assert rest == whole[number][stop:]


def test_texts_are_the_same_on_any_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*args: Any) -> bool:
        return False

    for name in ("multiplies_half", "packs", "has_exact_int8_product"):
        monkeypatch.setattr(independent, name, unsupported)
    model, asked = deterministic("bloom"), requests(6)
    assert isinstance(model.stored_head, DotProducts)
    assert texts(model, asked, 6, chunk=7) == texts(model, asked)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_do_not_depend_on_threads_rows_or_outputs(
    dtype: torch.dtype, threads: int
) -> None:
    weight, x = torch.randn(300, 1500).to(dtype), torch.randn(70, 1500)
    matrix = independent.independent(weight)
    expected = matrix(x, None)
    kernels = {torch.float32: storage.packs(dtype), torch.bfloat16: multiplies_half()}
    assert isinstance(matrix, DotProducts) == (not kernels[dtype])
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for rows in (slice(3, 4), slice(10, 35), slice(0, 70)):
            part = independent.independent(weight[75:150].contiguous())
            assert torch.equal(part(x[rows], None), expected[rows, 75:150])
    finally:
        torch.set_num_threads(before)


def test_a_kernel_whose_rows_depend_on_each_other_is_not_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Plain:
        def __init__(self, weight: torch.Tensor) -> None:
            self.weight = weight

        def __call__(self, x: torch.Tensor, bias: Any = None) -> torch.Tensor:
            return x @ self.weight.t() + len(x) * 1e-6

    monkeypatch.setattr(independent, "PairedRows", Plain)
    assert isinstance(independent.independent(torch.randn(40, 30)), DotProducts)


def test_sums_over_inputs_have_one_order() -> None:
    weight, x = torch.randn(30, 64), torch.randn(5, 64)
    partials = InputParts(weight, SINGLE, int8=False)(x)
    assert len(partials) == 4
    pairs = (partials[0] + partials[1]) + (partials[2] + partials[3])
    assert torch.equal(sum_in_pairs(partials, SINGLE), pairs)
    assert torch.allclose(pairs, x @ weight.t(), atol=1e-4)


@pytest.mark.parametrize("function", [torch.exp, torch.tanh, torch.cos, torch.nn.functional.silu])
def test_elements_do_not_depend_on_their_place(function: Any) -> None:
    x = torch.randn(3, 41)
    with torch.inference_mode():
        found = by_lanes(function, x)
        for start in (0, 1, 17):
            part = by_lanes(function, x.flatten()[start : start + 23])
            assert torch.equal(part, found.flatten()[start : start + 23])
    assert torch.allclose(found, function(x), atol=1e-6)


@pytest.mark.parametrize(("heads", "shared", "size"), [(4, 1, 64), (2, 3, 8), (1, 2, 128)])
def test_exact_attention_is_attention(
    heads: int, shared: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "KEYS", 50)
    generator = torch.Generator().manual_seed(0)
    K, N = 130, heads * shared
    query = torch.randn(K, N, size, generator=generator)
    keys, values = torch.randn(2, heads, K, size, generator=generator)
    values = values * torch.exp(torch.randn(heads, K, 1, generator=generator))
    slopes = torch.arange(N) / N / 8
    exact_values, factors = attention.as_whole_below_one(values)
    stored = [t.float() for t in (attention.as_whole(keys), exact_values, factors)]

    def attend(start: int, stop: int) -> torch.Tensor:
        seen = [t[:, :stop] for t in stored]
        return attention.exact_attention(query[start:stop], *seen, start, slopes)

    bias = torch.full((K, K), -torch.inf).triu(1) + slopes[:, None, None] * torch.arange(K)
    expected = torch.nn.functional.scaled_dot_product_attention(
        query.double().transpose(0, 1), keys.double().repeat_interleave(shared, 0),
        values.double().repeat_interleave(shared, 0), bias.double(),
    ).transpose(0, 1)  # fmt: skip
    whole = attend(0, K)
    assert (whole - expected).abs().max() < 2e-6 * values.abs().max()
    for start, stop in ((0, 1), (60, 61), (7, 100), (129, 130)):
        assert torch.equal(attend(start, stop), whole[start:stop])


@pytest.mark.slow
@pytest.mark.timeout(2400)  # four processes on two cores
def test_ten_thousand_texts_are_equal() -> None:
    bench = Path(__file__).parents[2] / "bench" / "determinism.py"
    run = subprocess.run(
        [sys.executable, str(bench), "--requests", "1000", "--no-cost"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "byte-equal continuations: 10020 of 10020" in run.stdout, run.stdout


def test_what_cannot_be_deterministic_is_refused() -> None:
    model = BloomForCausalLM(vocab_size=32, hidden_size=16, n_layer=1, n_head=2, dtype="float64")
    with pytest.raises(InputError, match=r"deterministic: not in torch.float64"):
        optimize(model, "none", deterministic=True)
    with pytest.raises(InputError, match="deterministic: only on the CPU"):
        optimize(model.to("meta"), "none", deterministic=True)
