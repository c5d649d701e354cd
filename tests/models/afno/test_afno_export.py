"""Exported AFNO and FNO models: real arithmetic only, and the numbers of the model itself."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cupola import nn
from cupola.inspect import describe
from cupola.models.afno import AFNOClassifier
from cupola.registry import build
from cupola.runtime.export import Program, export
from cupola.runtime.predictors.forecast_program import Step

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

AFNO: dict[str, Any] = {
    "type": "AFNONet",
    "img_size": (16, 24),
    "patch_size": 2,
    "in_chans": 2,
    "out_chans": 2,
    "embed_dim": 16,
    "depth": 2,
    "num_blocks": 4,
    "init_std": 0.3,
}
MODELS: dict[str, dict[str, Any]] = {
    "fourcastnet": AFNO,
    "fraction": {**AFNO, "hard_thresholding_fraction": 0.5},
    "lowpass": {**AFNO, "modes": "lowpass", "mode_gain": True, "residual": True},
    "transformer": {**AFNO, "modes": "transformer", "double_skip": False},
    "fno": {"type": "FNO", "in_chans": 2, "out_chans": 2, "modes": 4, "width": 8, "depth": 2},
    "precip": {
        "type": "PrecipNet",
        "backbone": {**AFNO, "out_chans": 1},
        "wind": AFNO,
    },
}


def made(config: dict[str, Any]) -> Any:
    torch.manual_seed(0)
    model = build(config).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("gain"):
            torch.nn.init.normal_(parameter.data, std=0.5)
    return model


QUICK = ("lowpass", "fno")
BOTH = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in MODELS]


@pytest.mark.parametrize("name", BOTH)
def test_torch_export(name: str, tmp_path: Path) -> None:
    model = made(MODELS[name])
    x = torch.randn(1, 2, 16, 24)
    with torch.no_grad():
        expected = model(x)
    program = Program(Step(nn.to_torch(model)), (x,), ("x",), ("y",))
    export(program, tmp_path / "m.pt2", "torch")
    loaded = torch.export.load(tmp_path / "m.pt2")
    assert "complex" not in str(loaded.graph)
    assert "fft" not in str(loaded.graph)
    with torch.no_grad():
        found = loaded.module()(x)
    scale = float(expected.abs().max())
    np.testing.assert_allclose(found, expected, atol=1e-5 * max(scale, 1.0))


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_onnx(name: str, tmp_path: Path) -> None:
    check_onnx(made(MODELS[name]), torch.randn(1, 2, 16, 24), tmp_path)


def test_onnx_of_the_filter(tmp_path: Path) -> None:
    check_onnx(made({**AFNO, "depth": 1}), torch.randn(1, 2, 16, 24), tmp_path)


def check_onnx(model: Any, x: torch.Tensor, folder: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    with torch.no_grad():
        expected = model(x)
    program = Program(Step(nn.to_torch(model)), (x,), ("x",), ("y",))
    export(program, folder / "m.onnx", "onnx")
    session = runtime.InferenceSession(str(folder / "m.onnx"), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": x.numpy()})
    np.testing.assert_allclose(found, expected, atol=1e-5 * max(float(expected.abs().max()), 1.0))


@pytest.mark.parametrize("name", MODELS)
def test_every_family_is_explained(name: str) -> None:
    seen = describe(made(MODELS[name]), run=True).seen
    assert seen is not None
    assert seen.flops > 0


def test_the_classifier_is_explained() -> None:
    model = AFNOClassifier(img_size=32, embed_dim=16, depth=1, num_classes=3)
    seen = describe(model, run=True).seen
    assert seen is not None
    assert seen.flops > 0
