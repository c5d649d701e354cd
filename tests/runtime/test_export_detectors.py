"""Exported detectors take any batch, image size and padding, and give the model's numbers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from typer.testing import CliRunner

from cupola.cli.main import app
from cupola.errors import InputError
from cupola.models.layers.feature_levels import feature_mask
from cupola.registry import build
from cupola.runtime import tasks
from cupola.runtime.export import Program, export
from cupola.runtime.predictors.detection import DetectionPredictor
from models.conditional_detr.small import conditional_config, dab_config
from models.deformable_detr.small import deformable_config

# What the exporters say of their own workings.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
SIZES = ((1, 64, 97), (2, 130, 100), (5, 65, 224))


def detr_config() -> dict[str, Any]:
    config = conditional_config()
    layer = config["encoder"]["layer_cfg"]
    attention = layer["self_attn_cfg"]
    decoder = {"num_layers": 2, "layer_cfg": {**layer, "cross_attn_cfg": attention}}
    head = {"type": "DETRHead", "num_classes": 3, "embed_dims": 16}
    return {**config, "type": "DETR", "decoder": decoder, "bbox_head": head}


def nested_config() -> dict[str, Any]:
    """The structure of MMDetection 2.x."""
    attention = {"type": "MultiheadAttention", "embed_dims": 16, "num_heads": 4}
    order = ("self_attn", "norm", "ffn", "norm")
    settings = {"feedforward_channels": 32, "attn_cfgs": attention}
    encoder = {"type": "BaseTransformerLayer", **settings, "operation_order": order}
    decoder = {
        "type": "DetrTransformerDecoderLayer",
        **settings,
        "operation_order": ("self_attn", "norm", "cross_attn", "norm", "ffn", "norm"),
    }
    transformer = {
        "type": "Transformer",
        "encoder": {
            "type": "DetrTransformerEncoder",
            "num_layers": 1,
            "transformerlayers": encoder,
        },
        "decoder": {
            "type": "DetrTransformerDecoder",
            "return_intermediate": True,
            "num_layers": 2,
            "transformerlayers": decoder,
        },
    }
    positions = {"type": "SinePositionalEncoding", "num_feats": 8, "normalize": True}
    head = {"type": "DETRHead", "num_classes": 3, "in_channels": 32, "num_query": 7}
    head |= {"transformer": transformer, "positional_encoding": positions}
    return {"type": "DETR", "backbone": conditional_config()["backbone"], "bbox_head": head}


CONFIGS = {
    "detr": detr_config,
    "detr of 2.x": nested_config,
    "conditional detr": conditional_config,
    "dab detr": lambda: dab_config(num_patterns=2),
    "deformable detr": deformable_config,
}


def program_of(config: dict[str, Any]) -> Program:
    torch.manual_seed(0)
    model = build(config).eval()
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter.data, std=0.3)
    predictor = DetectionPredictor("small", "1", model)
    return tasks.find("detection").program(predictor, (96, 160))


def inputs(batch: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    pixels = torch.randn(batch, 3, height, width)
    mask = torch.zeros(batch, height, width, dtype=torch.bool)
    mask[0, :, width - 40 :] = True
    return pixels.masked_fill(mask[:, None], 0.0), mask


def check(program: Program, run: Any) -> None:
    """`run(pixels, mask)` gives the module's outputs at sizes that it was not traced with."""
    for size in SIZES:
        feeds = inputs(*size)[: len(program.inputs)]
        with torch.no_grad():
            expected = program.module(*feeds)
        for found, wanted in zip(run(*feeds), expected, strict=True):
            torch.testing.assert_close(torch.as_tensor(found), wanted, rtol=0, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_torch_export(name: str, tmp_path: Path) -> None:
    program = program_of(CONFIGS[name]())
    export(program, tmp_path / "m.pt2", "torch")
    with torch.no_grad():
        check(program, torch.export.load(tmp_path / "m.pt2").module())


def session(path: Path) -> Any:
    onnx = pytest.importorskip("onnx")
    nodes = onnx.load(path).graph.node
    assert {node.domain for node in nodes} <= {"", "ai.onnx"}
    assert not {node.op_type for node in nodes} & {"GridSample", "Resize"}
    return pytest.importorskip("onnxruntime").InferenceSession(path)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", CONFIGS)
def test_onnx(name: str, tmp_path: Path) -> None:
    program = program_of(CONFIGS[name]())
    export(program, tmp_path / "m.onnx", "onnx")
    opened = session(tmp_path / "m.onnx")
    assert [each.name for each in opened.get_inputs()] == ["pixels", "padding_mask"]
    assert opened.get_inputs()[0].shape == ["batch", 3, "height", "width"]
    feeds = ("pixels", "padding_mask")
    check(program, lambda *given: opened.run(None, _named(feeds, given)))


def _named(names: Any, tensors: Any) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in zip(names, tensors, strict=True)}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_command_without_mask_and_of_fixed_size(tmp_path: Path) -> None:
    out = tmp_path / "digits.onnx"
    done = CliRunner().invoke(app, ["export", "detr-digits", str(out), "--no-mask"])
    assert done.exit_code == 0, done.output
    assert "pixels [batch, 3, height, width] -> logits, boxes" in done.output
    assert [each.name for each in session(out).get_inputs()] == ["pixels"]
    done = CliRunner().invoke(app, ["export", "detr-digits", str(out), "--static"])
    assert "pixels [1, 3, 128, 128], padding_mask [1, 128, 128]" in done.output
    assert session(out).get_inputs()[0].shape == [1, 3, 128, 128]


def test_a_network_that_cannot_be_traced_is_one_error(tmp_path: Path) -> None:
    class ByValue(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    program = Program(ByValue(), (torch.zeros(2, 3),), ("x",), ("y",), ({0: "batch"},))
    with pytest.raises(InputError, match=r"cannot export this network; a fixed size .*--static"):
        export(program, tmp_path / "m.pt2", "torch")


def test_only_a_detector_of_one_image_has_a_mask() -> None:
    program = Program(torch.nn.Identity(), (torch.zeros(2, 3),), ("x",), ("y",))
    with pytest.raises(InputError, match=r"has no padding_mask; its inputs: \('x',\)"):
        program.without("padding_mask")
    assert program.fixed().shape(0) == [1, 3]


def test_the_mask_of_a_feature_map_is_that_of_interpolate() -> None:
    """On every size up to 1400 pixels, though no Resize is exported."""
    for stride in (8, 16, 32, 64):
        for side in range(1, 1400, 3):
            cells = -(-side // stride)
            mask = torch.rand(1, side, 2) < 0.5
            expected = F.interpolate(mask[None].float(), size=(cells, 2))[0].bool()
            assert torch.equal(feature_mask(mask, torch.empty(1, 1, cells, 2)), expected)
