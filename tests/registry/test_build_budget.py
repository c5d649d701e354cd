"""A config that asks for a model too large ends in one error before it takes memory."""

import json
import resource
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

import cupola
from cupola import nn, registry
from cupola.cli.main import app
from cupola.errors import BuildError
from cupola.registry import MODELS
from cupola.registry.budget import Limits
from cupola.registry.charging import charging

BLOOM = {"type": "BloomForCausalLM", "n_layer": 2, "hidden_size": 8, "n_head": 2, "vocab_size": 16}
BLOOM_176B = BLOOM | {"n_layer": 70, "hidden_size": 14336, "n_head": 112, "vocab_size": 250880}
MODULES = r"model: BloomForCausalLM asks for 10001 modules; a build may have 10000. Its largest "
NUMBERS = r"numbers, the last of them in a tensor of shape .*; a build may have 2000000000\. "


HUGE = 10**8  # 800 MB as a list
ANCHORS = {"type": "AnchorGenerator", "scales": [8], "ratios": [1.0], "strides": [8]}
HEAD = {"num_classes": 3, "in_channels": 8, "feat_channels": 8, "stacked_convs": HUGE}
BRANCHES = [(4,), (4, 4), (4, 4, 4), (4, 4, 4, 4)]
HRNET_STAGES = {
    f"stage{number}": {
        "num_modules": HUGE,
        "num_branches": number,
        "block": "BASIC",
        "num_blocks": blocks,
        "num_channels": (8, 16, 32, 64)[:number],
    }
    for number, blocks in enumerate(BRANCHES, 1)
}
COUNTS: dict[str, dict[str, Any]] = {
    "modules of a stage": {"type": "HRNet", "extra": HRNET_STAGES},
    "convolutions of a head": {"type": "RetinaHead", **HEAD, "anchor_generator": ANCHORS},
    "convolutions of YOLOX": {"type": "YOLOXHead", **HEAD},
    "blocks": {"type": "SmallResNet", "blocks": HUGE},
    "paths": {"type": "FPG", "in_channels": [8], "out_channels": 8, "num_outs": HUGE}
    | {"inter_channels": 8, "stack_times": 1, "paths": ["bu"]},
    "stages": {"type": "CascadeRoIHead", "num_stages": HUGE, "stage_loss_weights": [1]}
    | {"bbox_roi_extractor": {}, "bbox_head": {}},
    "layers in the style of 2.x": {
        "type": "DetrTransformerDecoder",
        "transformerlayers": {"type": "DetrTransformerDecoderLayer"},
        "num_layers": HUGE,
    },
}


@pytest.fixture
def register() -> Any:
    """Registers classes for one test."""
    before = dict(MODELS._table)
    yield MODELS.register_module()
    MODELS._table.clear()
    MODELS._table.update(before)


def peak() -> int:
    """The most memory of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest.mark.skipif(sys.platform != "linux", reason="units of ru_maxrss")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_layer": 10**7}, MODULES + r"settings: n_layer=10000000, .*--max-modules"),
        ({"n_layer": 10**30}, MODULES + "settings: n_layer=an integer of 100 bits"),
        ({"hidden_size": 10**6}, NUMBERS + "Its largest settings: hidden_size=1000000"),
        ({"vocab_size": 10**9}, "1000000000 x 8; a build may have"),
        ({"max_position_embeddings": 10**9}, NUMBERS + ".*--max-parameters"),
        ({"n_layer": 500, "hidden_size": 4096}, NUMBERS),
    ],
)
def test_sizes_that_are_too_large(change: dict[str, int], message: str) -> None:
    cupola.build(BLOOM)
    before = peak()
    with pytest.raises(BuildError, match=message):
        cupola.build(BLOOM | change)
    assert peak() - before < 200e6


@pytest.mark.parametrize("config", COUNTS.values(), ids=COUNTS)
def test_counts_pay_before_they_become_lists(config: dict[str, Any]) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(BuildError):
            cupola.build(config)
        assert tracemalloc.get_traced_memory()[1] < 200e6
    finally:
        tracemalloc.stop()


def test_an_error_of_many_parts_has_the_whole_count(register: Any) -> None:
    @register
    class ManyActivations(nn.Module):
        def __init__(self, inner: Any = None) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.ReLU() for _ in range(6000))
            self.inner = MODELS.build(inner) if inner else None

    layers = {"type": "ManyActivations"}
    with pytest.raises(BuildError, match=r"asks for \d+ modules of 10001 in all; a build may have"):
        cupola.build({**layers, "inner": layers})


def test_the_part_of_the_config_that_asked_is_named() -> None:
    inner = {"type": "ChannelMapper", "in_channels": [8], "out_channels": 8, "num_outs": 10**6}
    with pytest.raises(BuildError, match=r"^model\.inner.*num_outs=1000000"):
        cupola.build({"type": "OuterOfBudget", "inner": inner})


@MODELS.register_module("OuterOfBudget")
def outer(inner: Any) -> Any:
    return MODELS.build(inner)


def test_the_largest_published_model_is_built_without_memory() -> None:
    with nn.on_meta():
        model = cupola.build(BLOOM_176B)
    assert sum(each.numel() for each in model.parameters()) == 176_247_271_424
    assert next(cupola.build(BLOOM_176B, device="meta").parameters()).is_meta
    with pytest.raises(BuildError, match="--max-parameters"):
        cupola.build(BLOOM_176B)


def test_limits_are_raised_and_lowered(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cupola.build(BLOOM, max_parameters=3000, max_modules=30)
    with pytest.raises(BuildError, match="a build may have 900"):
        cupola.build(BLOOM, max_parameters=900)
    with pytest.raises(BuildError, match="a build may have 12"):
        cupola.build(BLOOM, max_modules=12)
    monkeypatch.setenv("CUPOLA_MAX_PARAMETERS", "8e2")
    with pytest.raises(BuildError, match="a build may have 800"):
        cupola.build(BLOOM)
    monkeypatch.setenv("CUPOLA_MAX_MODULES", "12")
    with pytest.raises(BuildError, match="a build may have 12"):
        cupola.build(BLOOM)
    assert cupola.build(BLOOM, max_parameters=3000, max_modules=30)
    monkeypatch.setenv("CUPOLA_MAX_MODULES", "many")
    with pytest.raises(BuildError, match="CUPOLA_MAX_MODULES is 'many', not a number"):
        cupola.build(BLOOM)


def test_trying_a_build_changes_no_random_numbers() -> None:
    torch.manual_seed(0)
    first = MODELS.build(BLOOM).state_dict()
    torch.manual_seed(0)
    second = registry.build(BLOOM).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize(
    "make",
    [
        lambda n: torch.zeros(2, n),
        lambda n: torch.ones(3).new_empty((n,)),
        lambda n: torch.arange(n),
        lambda n: torch.arange(0.0, 1.0, 1 / n),
        lambda n: torch.linspace(0, 1, n),
        lambda n: torch.eye(n),
        lambda n: torch.randperm(n),
        lambda n: torch.ones(1).repeat(n),
        lambda n: torch.ones(1).expand(n).clone(),
        lambda n: torch.arange(n // 100)[:, None] * torch.arange(n // 100),
        lambda n: torch.nn.functional.pad(torch.ones(1), (0, n)),
        lambda n: torch.nn.Linear(n, 10),
        lambda n: torch.empty(0).resize_(n),
    ],
)
def test_every_way_to_make_a_tensor_pays(register: Any, make: Callable[[int], Tensor]) -> None:
    @register
    class MakesTensors(nn.Module):
        def __init__(self, n: int) -> None:
            super().__init__()
            self.made = make(n)

    assert cupola.build({"type": "MakesTensors", "n": 100})
    with pytest.raises(BuildError, match=r"model: MakesTensors asks for .*n=1000000000\. If"):
        cupola.build({"type": "MakesTensors", "n": 10**9})


def test_modules_of_torch_and_bare_ones_pay(register: Any) -> None:
    @register
    class ManyModules(nn.Module):
        def __init__(self, n: int, kind: str) -> None:
            super().__init__()
            self.parts = nn.ModuleList()
            for _ in range(n):
                self.parts.append((nn if kind == "ours" else torch.nn).Identity())

    assert len(cupola.build({"type": "ManyModules", "n": 9, "kind": "ours"}).parts) == 9
    for kind in ("ours", "torch"):
        with pytest.raises(BuildError, match="modules; a build may have 10000"):
            cupola.build({"type": "ManyModules", "n": 10**9, "kind": kind})


def test_a_class_that_reads_its_parameters_is_built_with_memory(register: Any) -> None:
    @register
    class ReadsItsParameters(nn.Module):
        def __init__(self, n: int) -> None:
            super().__init__()
            self.layer = nn.Linear(n, n)
            self.first = self.layer.weight.flatten()[0].item()

    model = cupola.build({"type": "ReadsItsParameters", "n": 10})
    assert model.first == model.layer.weight[0, 0].item()
    with pytest.raises(BuildError, match="a build may have 20000000"):
        cupola.build({"type": "ReadsItsParameters", "n": 6000})
    assert cupola.build({"type": "ReadsItsParameters", "n": 6000}, max_parameters=10**8)


def test_sizes_that_torch_refuses_are_one_line() -> None:
    for value in (-1, 2**70):
        with pytest.raises(BuildError) as caught:
            cupola.build(BLOOM | {"vocab_size": value})
        assert "\n" not in str(caught.value)


def test_explain_outlines_a_model_that_is_too_large_to_run(tmp_path: Path) -> None:
    config = tmp_path / "bloom.json"
    config.write_text(json.dumps({"model": BLOOM_176B}))
    done = CliRunner().invoke(app, ["explain", str(config), "--depth", "0"])
    assert done.exit_code == 0, done.output
    assert "176 G parameters" in done.output
    done = CliRunner().invoke(app, ["explain", str(config), "--max-modules", "100"])
    assert "a build may have 100. " in str(done.exception)


IMPORTS_NO_COMPILER = """
import sys
import cupola
for model in {models!r}:
    cupola.build(model)
assert not {{"torch._dynamo", "sympy"}} & set(sys.modules)
"""


@pytest.mark.slow
def test_a_build_does_not_import_torchdynamo() -> None:
    """It takes 60 MB and seconds; a position embedding and an attention compute with tensors."""
    models = [
        {"type": "PETRHeadDN", "num_classes": 2, "depth_num": 30, "LID": True,
         "transformer": {"type": "PETRTransformer", "decoder": {
             "type": "PETRTransformerDecoder", "num_layers": 1, "transformerlayers": {
                 "type": "PETRTransformerDecoderLayer", "feedforward_channels": 8,
                 "attn_cfgs": {"type": "MultiheadAttention", "embed_dims": 256, "num_heads": 8},
                 "operation_order": ("cross_attn", "norm", "ffn", "norm")}}},
         "bbox_coder": {"type": "NMSFreeCoder", "pc_range": [-51.2, -51.2, -5, 51.2, 51.2, 3]}},
        {"type": "TemporalSelfAttention", "num_levels": 1},
    ]  # fmt: skip
    code = IMPORTS_NO_COMPILER.format(models=models)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_what_a_constructor_computes_pays_once(register: Any) -> None:
    @register
    class Computes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            product = torch.zeros(2, 1) * torch.zeros(3)  # 2 + 3 + 6
            torch.cat((product, product))  # 12
            product.any()

    with charging(Limits(10, 100, 100)) as budget:
        MODELS.build({"type": "Computes"})
    assert sum(budget.allocated.values()) == 23
