"""DETR3D's two origins: same keys, other boxes."""

import math

import pytest
import torch

from cupola.errors import CheckpointError
from cupola.registry import build
from cupola.structures import boxes3d
from cupola.weights import load_weights
from models.detr3d.small import small_batch, small_config


def test_mmdetection3d_s_checkpoints_load_as_they_are(tmp_path) -> None:
    torch.manual_seed(0)
    model, other = build(small_config()), build(small_config())
    torch.save({"meta": {"epoch": 24}, "state_dict": dict(model.state_dict())}, tmp_path / "m.pth")
    report = load_weights(other, tmp_path / "m.pth")
    assert not report.missing and not report.unexpected
    for key, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[key]), key
    assert load_weights(other, tmp_path / "m.pth", dialect="mmdet3d").dialect == "mmdet3d"


def test_the_original_s_boxes_are_converted() -> None:
    """A model with the original's meaning gives the same boxes after the conversion."""
    torch.manual_seed(0)
    old, new = build(small_config()).eval(), build(small_config()).eval()
    report = load_weights(new, dict(old.state_dict()), dialect="detr3d-original")
    assert report.dialect == "detr3d-original"
    batch = small_batch()
    with torch.no_grad():
        before, after = (
            boxes3d.decode_boxes(m(batch["pixels"], batch["lidar2img"], batch["image_size"]).boxes)
            for m in (old, new)
        )
    width, length = before[..., 3], before[..., 4]  # the original codes (w, l)
    torch.testing.assert_close(after[..., 3], length)
    torch.testing.assert_close(after[..., 4], width)
    turned = boxes3d.wrap_angle(after[..., 6] + before[..., 6] + math.pi / 2)
    torch.testing.assert_close(turned.abs().clamp(max=1e-3), turned.abs())
    torch.testing.assert_close(after[..., :3], before[..., :3])


def test_a_checkpoint_of_another_model_is_refused() -> None:
    with pytest.raises(CheckpointError, match="belong to no dialect"):
        load_weights(build(small_config()), {"layer.weight": torch.zeros(2)})
