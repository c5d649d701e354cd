"""On a GPU, where there is one: published detectors and shipped bundles give the CPU's numbers."""

from dataclasses import is_dataclass
from typing import Any

import numpy as np
import pytest
import torch

from cupola import Predictor
from cupola.bundles import shipped_names
from zoo import FOLDER, ZooModel

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")
GOLDENS = sorted(p.stem for p in FOLDER.glob("*.safetensors") if p.stem != "features")


@pytest.fixture(autouse=True)
def whole_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def tensors(value: Any) -> list[torch.Tensor]:
    """All tensors of a nested output, in order."""
    if isinstance(value, torch.Tensor):
        return [value]
    if is_dataclass(value):
        value = vars(value)
    parts = list(value.values()) if isinstance(value, dict) else value
    return [t for each in parts for t in tensors(each)] if isinstance(parts, list | tuple) else []


@pytest.mark.parametrize("name", GOLDENS)
def test_raw_outputs_are_the_cpus(name: str) -> None:
    golden = ZooModel(name)
    model, pixels = golden.model, golden.batch["pixels"]
    mask = golden.batch["padding_mask"]
    with torch.inference_mode():
        here = tensors(model(pixels, mask))
        there = tensors(model.to("cuda")(pixels.cuda(), mask.cuda()))
    assert len(here) == len(there) > 0
    for ours, theirs in zip(there, here, strict=True):
        assert ours.is_cuda and ours.shape == theirs.shape
        if theirs.is_floating_point() and theirs.numel():
            scale = float(theirs.abs().max()) or 1.0
            assert float((ours.cpu() - theirs).abs().max()) / scale < 4e-3


@pytest.mark.parametrize("name", shipped_names())
def test_a_bundle_answers_the_same(name: str) -> None:
    here: Any = Predictor.load(name)
    there: Any = Predictor.load(name, device="cuda")
    if here.task == "language":
        assert there("It is a truth", max_tokens=8).text == here("It is a truth", max_tokens=8).text
        return
    if here.task == "forecast":
        start = here.example(0)[0].numpy()
        ours, theirs = (p(start, steps=2, time=0.0).fields for p in (there, here))
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3 * float(theirs.abs().max()))
        return
    if here.task == "detection3d":
        ours, theirs = (p.predict(p.example({}), 0.3) for p in (there, here))
    else:
        image = np.random.default_rng(0).integers(0, 255, (96, 128, 3), np.uint8)
        ours, theirs = (p(image, 0.0) for p in (there, here))
    assert not ours.boxes.is_cuda
    torch.testing.assert_close(ours.scores, theirs.scores, rtol=0, atol=1e-3)
