"""Exported Deformable DETR, DINO and DDQ DETR: standard operators, no GridSample, equal outputs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cupola.registry import build
from cupola.runtime import tasks
from cupola.runtime.export import export
from cupola.runtime.predictors.detection import DetectionPredictor
from models.deformable_detr.small import ddq_config, deformable_config, dino_config, nested_config

DETECTION = tasks.find("detection")
CONFIGS = {
    "plain": deformable_config(),
    "nested two-stage": nested_config(refine=True, two_stage=True),
    "dino": dino_config(),
    "ddq": ddq_config(),
}
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


def predictor(config: dict[str, Any]) -> DetectionPredictor:
    torch.manual_seed(0)
    model = build(config)
    for parameter in model.parameters():
        parameter.data += torch.randn_like(parameter) * 0.1
    return DetectionPredictor("small", "1", model.eval(), exact=(64, 80))


@pytest.mark.parametrize("name", ["plain", pytest.param("dino", marks=pytest.mark.slow)])
def test_torch_export(name: str, tmp_path: Path) -> None:
    small, pixels = predictor(CONFIGS[name]), torch.randn(1, 3, 64, 80)
    with torch.no_grad():
        expected = small.model(pixels)
    export(DETECTION.program(small, None).fixed(), tmp_path / "m.pt2", "torch")
    program = torch.export.load(tmp_path / "m.pt2")
    targets = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert not any("grid_sampl" in target or "embedding_bag" in target for target in targets)
    with torch.no_grad():
        results = program.module()(pixels, torch.zeros(1, 64, 80, dtype=torch.bool))
    for result, output in zip(results, expected, strict=True):
        torch.testing.assert_close(result, output[-1], rtol=0, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_onnx(name: str, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    small, pixels = predictor(CONFIGS[name]), torch.randn(1, 3, 64, 80)
    with torch.no_grad():
        expected = small.model(pixels)
    export(DETECTION.program(small, None).fixed(), tmp_path / "m.onnx", "onnx")
    nodes = onnx.load(tmp_path / "m.onnx").graph.node
    assert {node.domain for node in nodes} <= {"", "ai.onnx"}
    assert "GridSample" not in {node.op_type for node in nodes}
    session = runtime.InferenceSession(tmp_path / "m.onnx")
    mask = np.zeros((1, 64, 80), bool)
    results = session.run(None, {"pixels": pixels.numpy(), "padding_mask": mask})
    for result, output in zip(results, expected, strict=True):
        np.testing.assert_allclose(result, output[-1].numpy(), rtol=0, atol=1e-4)
