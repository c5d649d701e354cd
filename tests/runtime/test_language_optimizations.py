"""Optimizations: what is packed generates the same text; eight bits come close; any CPU runs."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from cupola.errors import InputError
from cupola.generation import SamplingParams, Scheduler
from cupola.generation.shortlist import ArgmaxShortlist
from cupola.models.bloom import BloomForCausalLM
from cupola.parallel import eight_bits, four_bits, half_matrix, storage
from cupola.parallel.eight_bits import KERNELS, EightBitMatrix, exact_kernels
from cupola.parallel.four_bits import GROUP, FourBitMatrix, multiplies_four_bits, rounded_groups
from cupola.parallel.half_matrix import HalfMatrix
from cupola.parallel.storage import PackedMatrix
from cupola.runtime.optimize.language import optimize
from cupola.runtime.optimize.storages import Packing
from deterministic_texts import FAMILIES

SIZES = {"vocab_size": 4000, "hidden_size": 64, "n_layer": 2, "n_head": 4}


@pytest.fixture(params=["this machine", "no kernels"])
def machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """This processor, or one without kernels for bfloat16, exact sums of int8, and float16."""

    def unsupported(*args: Any) -> Any:
        raise RuntimeError("bf16 path needs the cpu support avx512bw")

    def saturating(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        return (left.int() @ right.int()).clamp(-(2**15), 2**15 - 1)

    checks = (
        storage.packs,
        eight_bits.exact_kernels,
        four_bits.multiplies_four_bits,
        half_matrix.multiplies_half,
    )
    if request.param == "no kernels":
        monkeypatch.setattr(storage.PackedMatrix, "__init__", unsupported)
        monkeypatch.setattr(half_matrix.HalfMatrix, "__init__", unsupported)
        monkeypatch.setattr(four_bits.FourBitMatrix, "__init__", unsupported)
        monkeypatch.setattr(eight_bits.FbgemmProduct, "__init__", unsupported)
        monkeypatch.setattr(torch, "_int_mm", saturating)
    for check in checks:
        check.cache_clear()
    yield request.param
    for check in checks:
        check.cache_clear()


def model(dtype: str = "float32", **options: Any) -> BloomForCausalLM:
    torch.manual_seed(1)
    return BloomForCausalLM(**SIZES, dtype=dtype, **options).eval()


def generated(model: BloomForCausalLM, **sampling: Any) -> list[list[int]]:
    """How three prompts are continued together."""
    scheduler = Scheduler(model, cache_tokens=512)
    for number in range(3):
        params = SamplingParams(**{"max_tokens": 24, "ignore_eos": True, **sampling})
        scheduler.add(str(number), range(number + 3, 3 * number + 9), params)
    found: list[list[int]] = [[], [], []]
    while scheduler.active:
        for token in scheduler.step():
            found[int(token.request_id)].append(token.token_id)
    return found


@pytest.mark.parametrize("how", [{}, {"temperature": 1.0}, {"repetition_penalty": 1.3}])
def test_packed_generates_the_same_text(machine: str, how: dict[str, Any]) -> None:
    plain = model(initializer_range=0.3)
    expected = generated(plain, **how)
    optimize(plain, "packed")
    if machine == "no kernels":
        assert plain.shortlist is None
    assert generated(plain, **how) == expected
    optimize(plain, "none")
    assert plain.shortlist is None
    assert generated(plain, **how) == expected


@pytest.mark.parametrize("has_half", [True, False])
def test_packed_bfloat16_is_the_same_function(
    machine: str, has_half: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In bfloat16 arithmetic only where there is no kernel for float32 sums."""
    if not has_half:
        for module in ("language", "storages"):
            monkeypatch.setattr(f"cupola.runtime.optimize.{module}.multiplies_half", lambda: False)
    plain = model("bfloat16", initializer_range=0.3)
    ids = torch.randint(0, 4000, (2, 7))
    wide = model("bfloat16", initializer_range=0.3).float()
    packs = storage.packs(torch.bfloat16)
    packs = packs and not (has_half and half_matrix.multiplies_half())
    with torch.inference_mode():
        expected = plain(ids) if packs else wide(ids)
        optimize(plain, "packed")
        stored = plain.transformer.blocks[0].mlp.dense_4h_to_h.stored
        assert isinstance(stored, PackedMatrix) == packs
        found = plain(ids)
    assert (found - expected).abs().max() < (0.02 if packs else 1e-5) * expected.abs().max()
    if machine == "no kernels":
        assert stored is None
    if not packs:
        assert generated(plain) == generated(wide)


@pytest.mark.parametrize(
    ("dtype", "optimization"), [("bfloat16", "none"), ("float16", "none"), ("float16", "packed")]
)
def test_sixteen_bits_are_multiplied_in_float32(
    machine: str, dtype: str, optimization: str
) -> None:
    plain, wide = model(dtype, initializer_range=0.05), model(dtype, initializer_range=0.05).float()
    ids = torch.randint(0, 4000, (2, 50))
    with torch.inference_mode():
        expected = wide(ids)
        optimize(plain, optimization)
        found = plain(ids)
    assert found.dtype == torch.float32
    assert (found - expected).abs().max() < 1e-5
    assert plain.head.weight.dtype == getattr(torch, dtype)  # two bytes a weight
    stored = plain.transformer.blocks[0].mlp.dense_4h_to_h.stored
    assert isinstance(stored, HalfMatrix) == (machine == "this machine")
    assert generated(plain) == generated(wide)


@pytest.mark.parametrize("family", list(FAMILIES))
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("optimization", ["none", "packed"])
def test_odd_sizes_generate_the_same_text(family: str, dtype: str, optimization: str) -> None:
    built, sizes = FAMILIES[family]

    def load() -> Any:
        torch.manual_seed(0)
        return built(**sizes, initializer_range=0.3, dtype=dtype).eval()

    wide, found = load().float(), load()
    optimize(found, optimization)
    ids = torch.randint(0, 200, (2, 33))
    with torch.inference_mode():
        expected = wide(ids)
        assert (found(ids) - expected).abs().max() < 1e-5 * expected.abs().max()
    assert generated(found) == generated(wide)


@pytest.mark.parametrize("spread", [0.0, 3.0, 30.0])
def test_bfloat16_is_kept_exactly_in_float16(spread: float) -> None:
    if not half_matrix.multiplies_half():
        pytest.skip("this machine has no kernel for float16 weights")
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(70, 40, generator=generator)
    weight *= torch.exp(spread * torch.randn(70, 1, generator=generator))  # rows of any size
    weight[3] = 0
    weight = weight.bfloat16()
    assert torch.equal(HalfMatrix(weight)(torch.eye(40)), weight.float().t())


def test_eight_bits_come_close(machine: str) -> None:
    plain = model(initializer_range=0.3)
    ids = torch.randint(0, 4000, (2, 7))
    with torch.inference_mode():
        expected = plain(ids)
        optimize(plain, "int8")
        found = plain(ids)
    assert (found - expected).std() < 0.05 * expected.std()
    assert torch.equal(found, expected) == (not eight_bits.has_exact_int8_product())
    assert generated(plain)[0] == generated(plain)[0]


def test_four_bits_come_close(machine: str) -> None:
    plain = model(initializer_range=0.3)
    ids = torch.randint(0, 4000, (2, 7))
    with torch.inference_mode():
        expected = plain(ids)
        optimize(plain, "int4")
        found = plain(ids)
    assert (found - expected).std() < 0.4 * expected.std()
    stored = plain.layers[0].mlp.dense_h_to_4h.stored
    assert isinstance(stored, FourBitMatrix) == multiplies_four_bits()
    assert not isinstance(plain.stored_head, FourBitMatrix)
    with pytest.raises(InputError, match="deterministic: not with int4; choose none, packed"):
        optimize(plain, "int4", deterministic=True)


@pytest.mark.parametrize("shape", [(1, 1), (7, 5), (64, 64), (70, 40), (301, 97), (8200, 33)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_matrices_in_four_bits(shape: tuple[int, int], dtype: torch.dtype) -> None:
    """Any size; a row of zeros stays zero, and rows do not depend on their neighbors."""
    if not multiplies_four_bits():
        pytest.skip("this machine has no kernel for 4-bit matrices")
    torch.manual_seed(0)
    weight = torch.randn(shape).to(dtype)
    weight[0] = 0
    matrix, x = FourBitMatrix(weight), torch.randn(17, shape[1])
    found = matrix(x)
    assert found.dtype == torch.float32
    assert not found[:, 0].any()
    products = x.bfloat16().double() @ weight.double().t()
    # half a step of each group's numbers, and the kernel's bfloat16
    step = (weight.float().amax(1) - weight.float().amin(1)).double() / 15
    bound = 0.6 * step * x.abs().sum(1, keepdim=True) + 0.02 * products.abs().max()
    assert ((found - products).abs() <= bound).all()
    for first, last in ((0, 1), (2, 3), (5, 17)):
        assert torch.equal(found[first:last], matrix(x[first:last]))
    assert torch.equal(matrix(x.view(1, 17, -1), torch.ones(shape[0]))[0], found + 1)
    assert matrix(x[:0]).shape == (0, shape[0])


def test_a_group_of_nearly_equal_weights() -> None:
    """Numbers are rounded to the scale and offset that are kept, not to those in float32."""
    groups = 1 + 1e-3 * torch.rand(5, 2 * GROUP)
    numbers, scales, offsets = rounded_groups(groups)
    kept = (numbers - 8) * scales.float()[..., None] + offsets.float()[..., None]
    assert (kept.flatten(1) - groups).abs().max() < 2**-8
    assert numbers.min() >= 0
    assert numbers.max() <= 15


@pytest.mark.parametrize("spread", [0.0, 1.0, 30.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_shortlist_holds_the_largest(machine: str, spread: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    table = (torch.randn(5000, 48) * torch.exp(spread * torch.rand(5000, 1) / 10)).to(dtype)
    table[17] = table[4000]  # an exact tie: the first one counts
    hidden = torch.randn(64, 48) * (1 + spread * (torch.arange(48) == 3))  # one large channel
    hidden[0] = table[17].float()
    hidden = hidden.to(dtype)
    logits = hidden.float() @ table.float().t()
    for row, token in enumerate(ArgmaxShortlist(table)(hidden)):
        best = float(logits[row].max())
        assert float(logits[row, token]) >= best - abs(best) * torch.finfo(dtype).eps * 2


def test_the_table_is_read_where_the_shortlist_is_too_long() -> None:
    table = torch.randn(1, 16).expand(100, 16) + 1e-6 * torch.randn(100, 16)
    hidden = torch.randn(1, 16)
    logits = hidden @ table.t()
    assert float(logits[0, ArgmaxShortlist(table)(hidden)[0]]) == float(logits.max())


def test_rows_do_not_depend_on_their_neighbors(machine: str) -> None:
    for kernel in (*exact_kernels(), None):
        matrix, x = EightBitMatrix(torch.randn(70, 40), kernel=kernel), torch.randn(50, 40)
        whole = matrix(x)
        for first, last in ((0, 1), (2, 3), (7, 9), (0, 16), (5, 38)):
            assert torch.equal(whole[first:last], matrix(x[first:last]))
        assert torch.equal(matrix(x.view(2, 25, 40), torch.ones(70))[1], whole[25:] + 1)
        assert matrix(x[:0]).shape == (0, 70)
        zeros = EightBitMatrix(torch.zeros(8, 32), kernel=kernel)
        assert not zeros(torch.zeros(1, 32)).any()


def test_eight_bit_products_do_not_saturate(machine: str) -> None:
    for kernel in (*exact_kernels(), None):
        for sign in (1.0, -1.0):
            x, weight = torch.full((3, 64), 127.0), sign * torch.full((24, 64), 127.0)
            found = EightBitMatrix(weight, kernel=kernel)(x)
            assert found.flatten().tolist() == pytest.approx([sign * 64 * 127**2] * 72)


def test_a_processor_without_vnni_rounds_to_seven_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same kernel must not be chosen at eight bits where it saturates."""
    exact = eight_bits.FbgemmProduct.__call__

    def saturating(self: Any, x: torch.Tensor) -> torch.Tensor:
        return exact(self, x) if x.abs().max() <= 64 else exact(self, x).clamp(-8160, 8160)

    if not {"fbgemm", "fbgemm 7 bits"} & set(exact_kernels()):
        pytest.skip("this torch was built without FBGEMM")
    monkeypatch.setattr(eight_bits.FbgemmProduct, "__call__", saturating)
    exact_kernels.cache_clear()
    try:
        assert exact_kernels()[0] == "fbgemm 7 bits"
        matrix = EightBitMatrix(torch.eye(40))
        assert matrix.largest == KERNELS["fbgemm 7 bits"][1]
        assert torch.allclose(matrix(torch.ones(3, 40)), torch.ones(3, 40))
    finally:
        exact_kernels.cache_clear()


def test_an_unknown_optimization() -> None:
    with pytest.raises(InputError, match=r"one of .*, not 'int9'; did you mean 'int8'"):
        optimize(model(), "int9")


def test_matrices_are_packed_side_by_side() -> None:
    if not half_matrix.multiplies_half():
        pytest.skip("no kernel for float16 with sums in float32")
    torch.manual_seed(0)
    weights = [torch.randn(count, 32).half() for count in (64, 100, 9000)]
    x = torch.randn(3, 32)
    with Packing() as packing:
        found = [packing.build("half", weight) for weight in weights]
        plain = packing.build("plain", weights[0])
    assert plain is None
    for matrix, weight in zip(found, weights, strict=True):
        assert matrix is not None and torch.equal(matrix(x), HalfMatrix(weight)(x))


def test_an_error_of_packing_is_raised_at_its_end() -> None:
    with pytest.raises(RuntimeError), Packing() as packing:
        packing.build("half", torch.zeros(64, 2, dtype=torch.float16, device="meta"))
