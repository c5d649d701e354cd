"""DETR3D's two origins: same keys, other boxes."""

import math

import pytest
import torch

from cupola.errors import CheckpointError
from cupola.registry import build
from cupola.structures import boxes3d
from cupola.train.initial import load_initial_weights
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


def ancestor(model, prefix: str) -> dict[str, torch.Tensor]:
    """What an FCOS3D checkpoint holds: this backbone and neck with other values, and more."""
    state = {
        prefix + key.removeprefix("img_"): torch.full_like(value, 0.25)
        for key, value in model.state_dict().items()
        if key.startswith("img_")
    }
    level = f"{prefix}neck.fpn_convs.4.conv.weight"  # FCOS3D has five levels
    return {**state, level: torch.zeros(16, 16, 3, 3), "bbox_head.scales.0": torch.zeros(1)}


@pytest.mark.parametrize("prefix", ["", "img_"])
def test_a_training_starts_from_fcos3d(tmp_path, prefix: str) -> None:
    model = build(small_config())
    head = {k: v.clone() for k, v in model.state_dict().items() if k.startswith("pts_bbox_head")}
    given = ancestor(model, prefix)
    torch.save({"meta": {}, "state_dict": given}, tmp_path / "fcos3d.pth")
    said = load_initial_weights(model, str(tmp_path / "fcos3d.pth"))
    assert said.startswith(f"loaded {len(given) - 2} of ") and "(dialect fcos3d)" in said
    assert "; newly initialized: pts_bbox_head." in said
    assert "more; not used: img_neck.fpn_convs.4.conv.weight, bbox_head.scales.0" in said
    for key, value in model.state_dict().items():
        if key.startswith("img_"):
            assert (value == 0.25).all() or key.endswith("num_batches_tracked"), key
        else:
            assert torch.equal(value, head[key]), key


def test_dd3d_s_backbone_lies_deeper() -> None:
    model = build(small_config())
    given = {"backbone.bottom_up.conv1.weight": torch.full((4, 3, 7, 7), 0.5)}
    report = load_weights(model, given, partial=True)
    assert (report.dialect, report.loaded) == ("fcos3d", 1)
    assert (model.img_backbone.conv1.weight == 0.5).all()


def test_fcos3d_is_no_model_to_predict_with() -> None:
    model = build(small_config())
    with pytest.raises(CheckpointError, match=r"dialect fcos3d\) does not fit.*\n.*missing: pts_"):
        load_weights(model, ancestor(model, ""))


def test_an_ancestor_of_another_size_is_refused() -> None:
    model = build(small_config())
    given = {**ancestor(model, ""), "backbone.conv1.weight": torch.zeros(64, 3, 7, 7)}
    with pytest.raises(
        CheckpointError, match=r"img_backbone\.conv1\.weight: shape \(64, 3, 7, 7\)"
    ):
        load_weights(model, given, partial=True)
