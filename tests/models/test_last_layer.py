"""Predictions and exports compute the heads of the last decoder layer alone."""

from typing import Any

import pytest
import torch

from cupola import nn
from cupola.models.detr import DETROutput
from cupola.registry import build
from cupola.runtime.predictors.detection_program import Exported
from models.conditional_detr.small import conditional_config, dab_config
from models.deformable_detr.small import ddq_config, deformable_config, dino_config, nested_config
from runtime.test_building import TINY

CONFIGS = {
    "detr": TINY,
    "conditional": conditional_config(),
    "dab": dab_config(),
    "deformable": deformable_config(),
    "deformable, refined": deformable_config(True),
    "deformable, two stages": deformable_config(True, True),
    "deformable of 2.x": nested_config(True, True),
    "dino": dino_config(),
    "ddq": ddq_config(),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_the_last_layer_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = build(CONFIGS[name]).eval()
    pixels = torch.randn(2, 3, 64, 64)
    mask = torch.zeros(2, 64, 64, dtype=torch.bool)
    mask[0, :, 48:] = True
    with torch.no_grad():
        every, last = model(pixels, mask), model(pixels, mask, True)
        exported = Exported(nn.to_torch(build(CONFIGS[name]).eval()), "queries")(pixels, mask)
    assert len(every.logits) > 1
    assert [len(each) for each in (*last, *exported)] == [1, 1, 2, 2]
    for one, all_layers in zip(last, every, strict=True):
        torch.testing.assert_close(one[0], all_layers[-1], rtol=1e-5, atol=1e-6)

    layers: list[int] = []
    kind: Any = type(model.bbox_head)
    forward = kind.forward

    def count(*arguments: Any, **options: Any) -> DETROutput:
        output: DETROutput = forward(*arguments, **options)
        layers.append(len(output.logits))
        return output

    monkeypatch.setattr(kind, "forward", count)
    sizes = [(64, 48), (64, 64)]
    found = model.predict({"pixels": pixels, "padding_mask": mask, "image_sizes": sizes})
    assert layers == [1]
    assert len(found) == 2
