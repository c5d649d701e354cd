"""The measured choice of storages: what runs here, what is faster, what is close enough."""

import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from cupola import Predictor
from cupola.errors import InputError
from cupola.models.bloom import BloomForCausalLM
from cupola.models.llama import LlamaForCausalLM
from cupola.parallel.eight_bits import EightBitMatrix, exact_kernels
from cupola.parallel.half_matrix import HalfMatrix, multiplies_half
from cupola.parallel.storage import PackedMatrix, packs
from cupola.runtime.optimize import language_choice as choices
from cupola.runtime.optimize import language_execution, storage_times, storages
from cupola.runtime.optimize.execution import Execution, Row
from cupola.runtime.optimize.language import optimize
from cupola.runtime.optimize.storages import HEAD, PLAIN, SHORTLIST, exact_storages
from cupola.runtime.optimize.threads import thread_counts

SIZES = {"vocab_size": 300, "hidden_size": 32, "n_layer": 2, "n_head": 4}
LLAMA = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
IDS = torch.arange(4, 24)[None]


def bloom(dtype: str = "float32", **options: Any) -> BloomForCausalLM:
    torch.manual_seed(1)
    return BloomForCausalLM(**SIZES, dtype=dtype, initializer_range=0.3, **options).eval()


def pretend(monkeypatch: pytest.MonkeyPatch, speeds: dict[str, float]) -> None:
    """A machine on which each storage takes the given time, and others take 1."""
    built: dict[int, str] = {}

    def product(name: str, weight: torch.Tensor) -> Callable[..., Any]:
        def call() -> None: ...

        built[id(call)] = name
        kept.append(call)
        return call

    kept: list[Any] = []
    monkeypatch.setattr(choices, "step_seconds", lambda model: 1.0)
    monkeypatch.setattr(storage_times, "_product", product)
    monkeypatch.setattr(
        storage_times,
        "_seconds",
        lambda product, weight, model, rows: dict.fromkeys(
            rows, speeds.get(built.get(id(product), "shortlist"), 1.0)
        ),
    )


def test_the_fastest_storage_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    if not packs(torch.float32):
        pytest.skip("this torch was built without oneDNN")
    pretend(monkeypatch, {"packed": 0.7, **dict.fromkeys(exact_kernels(), 0.3)})
    model = bloom()
    exact, any_storage = choices.fastest_exact(model), choices.fastest(model, int8_allowed=True)
    assert exact.optimization == "packed"
    assert exact.storages["mlp.dense_h_to_4h"] == "packed"
    assert exact.storages[HEAD] == PLAIN  # no second head in float32
    if exact_kernels():
        kernel = exact_kernels()[0]  # the others are as fast
        assert any_storage.optimization == "int8"
        assert set(any_storage.storages.values()) == {kernel}
        assert any_storage.times["mlp.dense_h_to_4h"][kernel] == pytest.approx(0.3)
    assert model.layers[0].mlp.dense_h_to_4h.stored is None  # measuring changes nothing


@pytest.mark.parametrize("slow", [1.0, 0.97, 1.82])
def test_what_is_not_faster_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch, slow: float) -> None:
    pretend(monkeypatch, dict.fromkeys(("packed", "half", "shortlist", *exact_kernels()), slow))
    choice = choices.optimize_fastest(model := bloom(), int8_allowed=True)
    assert choice.optimization == "none"
    assert choice.storages == {}
    assert model.shortlist is None
    assert model.layers[0].mlp.dense_h_to_4h.stored is None


def test_a_choice_is_applied_from_json(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = exact_kernels()
    if not kernels or not packs(torch.float32):
        pytest.skip("this machine has no int8 kernel, or no oneDNN")
    pretend(monkeypatch, dict.fromkeys(kernels, 0.3))
    model, other = bloom(), bloom()
    kept = json.loads(json.dumps(choices.optimize_fastest(model, int8_allowed=True).to_json()))
    optimize(other, kept["optimization"], storages=kept["storages"])
    assert isinstance(other.layers[1].mlp.dense_h_to_4h.stored, EightBitMatrix)
    assert other.stored_head is other.shortlist.small  # one copy for both
    with torch.inference_mode():
        assert torch.equal(model(IDS), other(IDS))
    mixed = {"mlp.dense_h_to_4h": "packed", "attention.dense": PLAIN, SHORTLIST: PLAIN}
    optimize(other, "packed", storages=mixed)
    assert isinstance(other.layers[1].mlp.dense_h_to_4h.stored, PackedMatrix)
    assert other.layers[1].attention.dense.stored is None
    assert other.shortlist is None
    with pytest.raises(InputError, match="storage 'int3' does not run on this machine"):
        optimize(other, "packed", storages={"mlp.dense_h_to_4h": "int3"})


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_kept_choice_is_what_was_measured(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process applies it to weights as they were loaded, also those in bfloat16."""
    pretend(monkeypatch, {"half": 0.3, "packed": 0.5})
    model, other = bloom(dtype), bloom(dtype)
    choice = choices.optimize_fastest(model)
    optimize(other, choice.optimization, storages=choice.storages)
    assert other.dtype == model.dtype == torch.float32
    with torch.inference_mode():
        assert torch.equal(model(IDS), other(IDS))


def test_eight_bits_stay_close(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a trained model, with the kernel of this machine and with seven-bit activations."""
    if not {"fbgemm", "fbgemm 7 bits"} & set(exact_kernels()):
        pytest.skip("this torch was built without FBGEMM")
    predictor = Predictor.load("bloom-tiny")
    ids = torch.tensor([predictor.tokenizer.encode("It was a delightful visit. " * 8).ids])
    with torch.inference_mode():
        optimize(predictor.model, "none")
        expected = predictor.model(ids)[0].log_softmax(-1)
        for kernel in (exact_kernels()[0], "fbgemm 7 bits"):
            monkeypatch.setattr(storages, "exact_kernels", lambda kernel=kernel: (kernel,))
            optimize(predictor.model, "int8")
            assert predictor.model.layers[0].mlp.dense_h_to_4h.stored.largest in (63, 127)
            found = predictor.model(ids)[0].log_softmax(-1)
            assert 0 < F.kl_div(found, expected, log_target=True, reduction="batchmean") < 0.01


def test_an_exact_choice_that_differs_is_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    if not packs(torch.float32):
        pytest.skip("this torch was built without oneDNN")
    pretend(monkeypatch, {"packed": 0.5, "shortlist": 2.0})
    model = bloom()
    kept = choices.optimize_fastest(model, ids=IDS[0].tolist())
    assert kept.optimization == "packed"
    assert kept.difference < 1e-5
    assert kept.same_tokens
    exact = PackedMatrix.__call__
    monkeypatch.setattr(PackedMatrix, "__call__", lambda self, x, b=None: exact(self, x, b) * 1.1)
    choice = choices.optimize_fastest(model, ids=IDS[0].tolist())
    assert choice.optimization == "none"
    assert choice.difference > choices.TOLERANCE
    assert model.layers[0].mlp.dense_h_to_4h.stored is None


def test_a_choice_whose_steps_are_slower_is_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    if not packs(torch.float32):
        pytest.skip("this torch was built without oneDNN")
    pretend(monkeypatch, {"packed": 0.5, "shortlist": 2.0})
    seconds = iter((0.02, 0.021))
    monkeypatch.setattr(choices, "step_seconds", lambda model: next(seconds))
    choice = choices.optimize_fastest(model := bloom())
    assert choice.seconds == {"none": 0.02, "packed": 0.021}
    assert (choice.optimization, choice.storages) == ("none", {})
    assert model.layers[0].mlp.dense_h_to_4h.stored is None


@pytest.mark.parametrize("family", ["bloom", "llama"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_measured_on_this_machine(family: str, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        storage_times, "CACHE_BYTES", 4096
    )  # what is slow here, and changes no result
    model = bloom(dtype) if family == "bloom" else LlamaForCausalLM(**LLAMA, dtype=dtype).eval()
    assert list(choices.candidates(model)) == ["none", "packed", "int8", "int4"]
    choice = choices.optimize_fastest(model)
    assert choice.optimization in ("none", "packed")
    names = {name for name, _ in choices.matrices(model)}
    assert names | {HEAD} <= set(choice.times)
    assert all(times[PLAIN] == 1.0 for times in choice.times.values())
    assert choice.difference <= choices.TOLERANCE
    assert choice.threads in (None, *thread_counts(torch.get_num_threads()))


def test_ties_may_go_either_way() -> None:
    before = torch.tensor([[1.0, 5.0, 5.0 - 1e-6], [4.0, 1.0, 2.0]])
    after = before.clone()
    after[0, 2] = 5.000001
    assert choices.compared(before, after)[1]
    after[1] = torch.tensor([1.0, 4.0, 2.0])
    difference, same = choices.compared(before, after)
    assert difference == pytest.approx(0.75)
    assert not same


def test_float32_weights_that_float16_holds_take_two_bytes() -> None:
    if not multiplies_half():
        pytest.skip("this machine has no kernel for float16 weights")
    published = bloom("float16").float()
    with torch.inference_mode():
        expected = published(IDS)
        optimize(published, "packed")
        assert isinstance(published.layers[0].mlp.dense_h_to_4h.stored, HalfMatrix)
        assert (published(IDS) - expected).abs().max() < 1e-5 * expected.abs().max()
    trained = bloom()
    assert exact_storages(trained.layers[0].mlp.dense_h_to_4h.weight, trained)[0] != "half"


def test_nothing_is_packed_without_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("packs", "multiplies_half"):
        monkeypatch.setattr(f"cupola.runtime.optimize.storages.{name}", lambda *_: False)
    monkeypatch.setattr(choices, "exact_kernels", tuple)
    monkeypatch.setattr(choices, "multiplies_four_bits", lambda: False)
    reasons = choices.candidates(bloom())
    assert reasons["none"] is None
    assert reasons["packed"] == "no kernel for these weights"
    assert reasons["int8"] == "no exact product of int8 matrices"
    assert reasons["int4"] == "no product of 4-bit matrices"
    monkeypatch.setattr(storage_times, "exact_kernels", tuple)
    assert choices.fastest(bloom(), int8_allowed=True).optimization == "none"


def test_explain_times_every_optimization(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of a model that auto leaves alone; the model is afterwards as it was loaded."""
    monkeypatch.setattr(language_execution, "step_seconds", lambda model: 0.01)
    predictor = SimpleNamespace(model=bloom())
    known = Execution("auto", "none", (Row("none", reason="the model is small"),))
    rows = {row.engine: row for row in language_execution.measure_each(predictor, known)}
    assert list(rows) == ["none", "packed", "int8", "int4"]
    assert rows["none"] == Row("none", 0.01, "", "the model is small")
    for name, reason in choices.candidates(predictor.model).items():
        measured = name != "none" and reason is None
        assert rows[name].difference.startswith("logits ") == measured
        assert rows[name].seconds == (None if reason else 0.01)
    assert predictor.model.layers[0].mlp.dense_h_to_4h.stored is None


def test_a_named_optimization_that_changes_nothing_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reasons = dict.fromkeys(("none", "packed", "int8"), None) | {"int4": "no product"}
    monkeypatch.setattr(language_execution, "candidates", lambda model: reasons)
    predictor = SimpleNamespace(name="toy", model=bloom(), apply_optimization=lambda: None)
    lines: list[str] = []
    for name in ("int4", "packed"):
        language_execution.execute(predictor, name, None, None, lines.append)
    assert lines == ["toy: int4 changes nothing here: no product"]
