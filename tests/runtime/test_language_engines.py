"""Engines: what is prepared writes what the plain model writes; eight bits come close."""

from typing import Any

import pytest
import torch

from cupola.errors import InputError
from cupola.generation.shortlist import Screen
from cupola.models.bloom import Batcher, BloomForCausalLM, Sampling
from cupola.parallel.storage import EightBitMatrix, PackedMatrix, eight_bit_products_are_exact
from cupola.runtime.optimize.language import prepare

SIZES = {"vocab_size": 4000, "hidden_size": 64, "n_layer": 2, "n_head": 4}


def model(dtype: str = "float32", **options: Any) -> BloomForCausalLM:
    torch.manual_seed(1)
    return BloomForCausalLM(**SIZES, dtype=dtype, **options).eval()


def written(model: BloomForCausalLM, **sampling: Any) -> list[list[int]]:
    """What three prompts become together."""
    batcher = Batcher(model, cache_tokens=512)
    for number in range(3):
        how = Sampling(**{"max_tokens": 24, "ignore_eos": True, **sampling})
        batcher.add(str(number), range(number + 3, 3 * number + 9), how)
    found: list[list[int]] = [[], [], []]
    while batcher.active:
        for token in batcher.step():
            found[int(token.request_id)].append(token.token_id)
    return found


@pytest.mark.parametrize("how", [{}, {"temperature": 1.0}, {"repetition_penalty": 1.3}])
def test_prepared_writes_what_eager_writes(how: dict[str, Any]) -> None:
    plain = model(initializer_range=0.3)
    expected = written(plain, **how)
    prepare(plain, "prepared")
    assert plain.screen is not None
    assert written(plain, **how) == expected
    prepare(plain, "eager")
    assert plain.screen is None and written(plain, **how) == expected


def test_prepared_bfloat16_is_the_same_function() -> None:
    plain = model("bfloat16", initializer_range=0.3)
    ids = torch.randint(0, 4000, (2, 7))
    with torch.inference_mode():
        expected = plain(ids)
        prepare(plain, "prepared")
        assert isinstance(plain.transformer.blocks[0].mlp.dense_4h_to_h.stored, PackedMatrix)
        found = plain(ids)
    assert (found - expected).abs().max() < 0.02 * expected.abs().max()


def test_eight_bits_come_close() -> None:
    plain = model(initializer_range=0.3)
    ids = torch.randint(0, 4000, (2, 7))
    with torch.inference_mode():
        expected = plain(ids)
        prepare(plain, "int8")
        found = plain(ids)
    assert (found - expected).std() < 0.05 * expected.std()
    assert written(plain)[0] == written(plain)[0]


@pytest.mark.parametrize("spread", [0.0, 1.0, 30.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_screen_lets_the_largest_through(spread: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    table = (torch.randn(5000, 48) * torch.exp(spread * torch.rand(5000, 1) / 10)).to(dtype)
    table[17] = table[4000]  # an exact tie: the first one counts
    hidden = torch.randn(64, 48) * (1 + spread * (torch.arange(48) == 3))  # one channel stands out
    hidden[0] = table[17].float()
    hidden = hidden.to(dtype)
    logits = hidden.float() @ table.float().t()
    for row, token in enumerate(Screen(table)(hidden)):
        best = float(logits[row].max())
        assert float(logits[row, token]) >= best - abs(best) * torch.finfo(dtype).eps * 2


def test_the_screen_reads_the_table_where_it_cannot_tell() -> None:
    table = torch.randn(1, 16).expand(100, 16) + 1e-6 * torch.randn(100, 16)
    hidden = torch.randn(1, 16)
    logits = hidden @ table.t()
    assert float(logits[0, Screen(table)(hidden)[0]]) == float(logits.max())


def test_rows_do_not_depend_on_their_neighbors() -> None:
    matrix, x = EightBitMatrix(torch.randn(40, 32)), torch.randn(5, 32)
    assert torch.equal(matrix(x)[2:3], matrix(x[2:3]))
    assert torch.equal(matrix(x.view(1, 5, 32), torch.ones(40))[0], matrix(x) + 1)
    assert torch.isfinite(EightBitMatrix(torch.zeros(8, 32))(torch.zeros(1, 32))).all()


def test_this_machine_adds_eight_bit_products_exactly() -> None:
    assert eight_bit_products_are_exact()


def test_an_unknown_engine() -> None:
    with pytest.raises(InputError, match=r"engine 'int9' is none of .*did you mean 'int8'"):
        prepare(model(), "int9")
