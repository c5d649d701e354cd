"""describe: shapes, parameters, FLOPs and sources of cupola and torch modules."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from cupola import build, nn
from cupola.errors import InputError
from cupola.inspect import describe
from cupola.inspect.example_inputs import default_shape, example_inputs, parse_shape
from cupola.inspect.terminal import count


def network(kit: object = torch.nn) -> torch.nn.Module:
    body = [kit.Conv2d(3, 8, 3, padding=1), kit.BatchNorm2d(8), kit.ReLU(), kit.Conv2d(8, 4, 1)]
    return kit.Sequential(kit.Sequential(*body), kit.Flatten(), kit.Linear(4 * 8 * 8, 10))


@pytest.mark.parametrize("kit", [torch.nn, nn], ids=["torch", "cupola"])
def test_shapes_parameters_and_sources(kit: object) -> None:
    description = describe(network(kit), (3, 8, 8))
    first, last = description.node("0.0"), description.node("2")
    assert first.visit is not None and last.visit is not None
    assert (first.visit.shape_in, first.visit.shape_out) == ("1x3x8x8", "1x8x8x8")
    assert first.parameters == 3 * 8 * 9 + 8
    assert first.visit.activation_bytes == 8 * 64 * 4
    assert first.source.split(":")[0].endswith("conv.py")
    assert description.root.parameters == sum(p.numel() for p in network().parameters())
    assert last.class_name == "Linear" and last.visit.calls == 1
    assert [node.path for node in description.root.walk()][:3] == ["", "0", "0.0"]


@pytest.mark.parametrize("kit", [torch.nn, nn], ids=["torch", "cupola"])
def test_flops_are_those_of_torchs_counter(kit: object) -> None:
    model = network(kit).eval()
    with FlopCounterMode(display=False) as counter:
        model(torch.randn(1, 3, 8, 8))
    description = describe(model, (3, 8, 8))
    assert description.seen is not None
    assert description.seen.flops == counter.get_total_flops() > 0
    visits = [node.visit for node in description.root.walk() if not node.children]
    assert sum(visit.flops for visit in visits if visit) == description.seen.flops


def test_attention_flops_are_those_of_torchs_counter() -> None:
    layer = torch.nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
    x = torch.randn(1, 5, 16)
    with FlopCounterMode(display=False) as counter:
        layer(x)  # in training mode, since the fused call of evaluation is counted as nothing
    description = describe(layer, {"src": x})
    assert description.seen is not None and description.seen.flops == counter.get_total_flops()


def test_a_module_that_hangs_twice_is_counted_once() -> None:
    shared = torch.nn.Linear(4, 4)
    description = describe(torch.nn.Sequential(shared, shared), (4,))
    assert description.root.parameters == 20
    assert description.node("1").shared_with == "0"
    assert description.node("0").visit is not None and description.node("0").visit.calls == 2


def test_the_text_is_a_tree() -> None:
    lines = describe(network(), (3, 8, 8)).text(depth=1).splitlines()
    assert lines[1].startswith("model") and "Sequential" in lines[1] and "1x10" in lines[1]
    assert lines[-3].startswith("└─ 2") and "2.57 K" in lines[-3]
    assert lines[-1].startswith("8 modules, 2.85 K parameters, ")
    without = str(describe(network()))
    assert "FLOPs" not in without and "2.57 K" in without
    with pytest.raises(KeyError):
        describe(network()).node("nowhere")


def test_the_mode_and_the_hooks_are_put_back() -> None:
    model = network().train()
    describe(model, (3, 8, 8))
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize(
    "text", ["3x", "axb", "0x3", "", "3x-4", "99999x99999x9", "3x²", "9" * 5000]
)
def test_shapes_that_are_none(text: str) -> None:
    with pytest.raises(InputError):
        parse_shape(text)
    assert parse_shape("3x800x1066") == (3, 800, 1066)


def test_inputs_that_do_not_fit_are_named() -> None:
    with pytest.raises(InputError, match="Sequential does not take input 1x4x8x8"):
        describe(network(), (4, 8, 8))
    with pytest.raises(InputError, match=r"Bilinear\.forward takes input1, input2; pass describe"):
        example_inputs(torch.nn.Bilinear(2, 2, 2))


@pytest.mark.parametrize("number", [(0, "0"), (999, "999"), (41_600_000, "41.6 M"), (1e9, "1 G")])
def test_counts(number: tuple[float, str]) -> None:
    assert count(number[0]) == number[1]


def test_a_detector_takes_images_whatever_its_first_layer_takes() -> None:
    narrow = {"feat_channels": 8, "stacked_convs": 1, "norm_cfg": None}
    darknet = {"type": "CSPDarknet", "deepen_factor": 0.33, "widen_factor": 0.125}
    detector = build(
        {
            "type": "FCOS",
            "backbone": {**darknet, "out_indices": [3, 4]},
            "neck": {"type": "FPN", "in_channels": [64, 128], "out_channels": 8, "num_outs": 5},
            "bbox_head": {"type": "FCOSHead", "num_classes": 3, "in_channels": 8, **narrow},
        }
    )
    visit = describe(detector, (3, 64, 64)).node("backbone.stem.conv").visit
    assert visit is not None and visit.shape_in == "1x12x32x32"  # four pixels are channels
    assert default_shape(detector) == (3, 224, 224)
