"""Exported networks: standard operators, and the numbers of the model itself."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cupola.errors import InputError
from cupola.registry import build
from cupola.runtime import tasks
from cupola.runtime.export import export
from cupola.runtime.predictors.detection3d import Detection3DPredictor
from models.detr3d.small import small_batch, small_config

DETECTION3D = tasks.find("detection3d")
# What the exporters say of their own workings.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def predictor() -> Detection3DPredictor:
    """A DETR3D with deformable convolutions whose offsets are not zero."""
    torch.manual_seed(0)
    config = small_config()
    config["img_backbone"] |= {
        "dcn": {"type": "DCNv2", "deform_groups": 1},
        "stage_with_dcn": (False, False, True, True),
    }
    model = build(config).eval()
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter.data, std=0.3)
    return Detection3DPredictor("small", "1", model, size=(64, 96))


@pytest.fixture(scope="module")
def expected(predictor: Detection3DPredictor) -> tuple[dict, list[np.ndarray]]:
    batch = small_batch()
    with torch.no_grad():
        output = predictor.model(batch["pixels"], batch["lidar2img"], batch["image_size"])
    feeds = {"pixels": batch["pixels"], "lidar2img": batch["lidar2img"]}
    return feeds, [each[-1].numpy() for each in output]


def of_other_sizes(predictor: Detection3DPredictor) -> list[tuple[list[np.ndarray], tuple]]:
    """Inputs of other batches and sizes than the traced ones, and the model's outputs."""
    batch, cases = small_batch(), []
    for count, height, width in ((1, 64, 96), (3, 96, 64), (2, 128, 160)):
        pixels = torch.randn(count, 6, 3, height, width)
        lidar2img = batch["lidar2img"][:1].expand(count, -1, -1, -1).contiguous()
        with torch.no_grad():
            output = predictor.model(pixels, lidar2img, (height, width))
        cases.append(((pixels, lidar2img), [each[-1].numpy() for each in output]))
    return cases


@pytest.mark.slow  # test_export_line.py has a faster one
def test_torch_export_of_fixed_size(predictor, expected, tmp_path: Path) -> None:
    feeds, _ = expected
    given = [each[:1] for each in feeds.values()]
    export(DETECTION3D.program(predictor, None).fixed(), tmp_path / "m.pt2", "torch")
    with torch.no_grad():
        results = torch.export.load(tmp_path / "m.pt2").module()(*given)
        output = predictor.model(*given, (64, 96))
    for result, wanted in zip(results, output, strict=True):
        torch.testing.assert_close(result, wanted[-1], rtol=0, atol=1e-4)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_torch_export(predictor, expected, tmp_path: Path) -> None:
    feeds, outputs = expected
    export(DETECTION3D.program(predictor, None), tmp_path / "m.pt2", "torch")
    module = torch.export.load(tmp_path / "m.pt2").module()
    for given, wanted in [(tuple(feeds.values()), outputs), *of_other_sizes(predictor)]:
        with torch.no_grad():
            results = module(*given)
        for result, output in zip(results, wanted, strict=True):
            np.testing.assert_allclose(result.numpy(), output, atol=1e-4)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_onnx_without_custom_operators(predictor, expected, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    feeds, outputs = expected
    program = DETECTION3D.program(predictor, None)
    export(program, tmp_path / "m.onnx", "onnx")
    nodes = onnx.load(tmp_path / "m.onnx").graph.node
    assert {node.domain for node in nodes} <= {"", "ai.onnx"}
    assert "GridSample" not in {node.op_type for node in nodes}
    session = runtime.InferenceSession(tmp_path / "m.onnx")
    assert [i.name for i in session.get_inputs()] == list(program.inputs)
    for given, wanted in [(tuple(feeds.values()), outputs), *of_other_sizes(predictor)]:
        named = zip(program.inputs, given, strict=True)
        results = session.run(None, {name: value.numpy() for name, value in named})
        for result, output in zip(results, wanted, strict=True):
            np.testing.assert_allclose(result, output, atol=1e-4)


def test_a_forecast_model_is_exported(tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = {"img_size": (16, 32), "patch_size": (4, 4), "in_chans": 2, "out_chans": 2}
    model = build({"type": "AFNONet", **sizes, "embed_dim": 16, "depth": 1, "num_blocks": 2}).eval()
    grid = SimpleNamespace(shape=(16, 32))
    forecast = SimpleNamespace(task="forecast", model=model, channels=("u", "v"), grid=grid)
    x = torch.randn(1, 2, 16, 32)
    with torch.no_grad():
        expected = model(x)
        export(tasks.find("forecast").program(forecast, None), tmp_path / "f.pt2", "torch")
        result = torch.export.load(tmp_path / "f.pt2").module()(x)
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-4)


def test_errors(predictor, tmp_path: Path) -> None:
    program = DETECTION3D.program(predictor, None)
    with pytest.raises(InputError, match="unknown format 'tflite'; expected one of"):
        export(program, tmp_path / "m", "tflite")
    language = SimpleNamespace(name="bloom")
    with pytest.raises(InputError, match=r"bloom: a language model has no export.*'forecast'\]"):
        tasks.find("language").program(language, None)
