"""`cupola explain --image` of detectors with deformable attention: the points of every layer."""

from typing import Any

import numpy as np
import pytest
import torch

from cupola.inspect.image_view import view_of_image
from cupola.registry import build
from models.deformable_detr.small import ddq_config, deformable_config, dino_config, nested_config

CONFIGS = {
    "plain": deformable_config(),
    "nested": nested_config(refine=True),
    "dino": dino_config(),
    "ddq": ddq_config(),
}


def made(config: dict[str, Any]) -> Any:
    torch.manual_seed(0)
    model = build(config)
    for parameter in model.parameters():
        parameter.data += torch.randn_like(parameter) * 0.1
    return model.eval()


@pytest.mark.parametrize("name", CONFIGS)
def test_points_of_every_layer(name: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (64, 80, 3), dtype=np.uint8)
    view = view_of_image(made(CONFIGS[name]), pixels, top=3)
    assert view["kind"] == "sampling"
    assert view["levels"] == [[8, 10], [4, 5], [2, 3]]
    assert len(view["queries"]) == 3
    for query in view["queries"]:
        assert len(query["layers"]) == 3
        for layer in query["layers"]:
            points = torch.tensor(layer["points"])
            assert points.shape == (4 * 3 * 2, 4)  # heads, levels, points of a head
            assert points[:, 2].unique().tolist() == [0.0, 1.0, 2.0]
            assert points[:, 3].sum().item() == pytest.approx(4, abs=0.01)  # 1 for each head


def test_points_are_where_the_attention_samples() -> None:
    """Zero offsets leave all points at the reference; zero weights make all points equal."""
    model = made(dino_config())
    for layer in model.decoder.layers:
        for part in (layer.cross_attn.sampling_offsets, layer.cross_attn.attention_weights):
            for parameter in part.parameters():
                torch.nn.init.zeros_(parameter)
    seen = model.inspect(torch.randn(1, 3, 64, 80))
    centers = seen["references"][:, :, None, None, None, :2].expand_as(seen["locations"])
    torch.testing.assert_close(seen["locations"], centers)
    torch.testing.assert_close(seen["weights"], torch.full_like(seen["weights"], 1 / 6))
    assert not model.training
