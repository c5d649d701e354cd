"""Small detectors of two stages: training, prediction, export, and parts against their rules."""

from pathlib import Path
from typing import Any

import pytest
import torch

from cupola.errors import BuildError, InputError
from cupola.ops.nms import nms
from cupola.registry import MODELS, build
from cupola.runtime.export import export
from cupola.runtime.predictors.detection import make
from cupola.runtime.predictors.detection_program import program
from models.rcnn.rcnn_families import CONCAT, FAMILIES, trident
from models.rcnn.test_rcnn_small import NOTHING, batch

UNCLIPPED = ("sparse", "queryinst")  # as their coders say


@pytest.mark.parametrize("family", FAMILIES)
def test_training_lowers_the_losses(family: str) -> None:
    torch.manual_seed(0)
    config, expected = FAMILIES[family]
    built, data = build(config), batch()
    optimizer = torch.optim.Adam(built.parameters(), 5e-3)
    totals = []
    for _ in range(10):
        losses = built.loss(data)
        totals.append(sum(value for name, value in losses.items() if "loss" in name))
        optimizer.zero_grad()
        totals[-1].backward()
        optimizer.step()
    assert set(losses) == expected
    assert totals[-1].item() < 0.95 * totals[0].item()


@pytest.mark.parametrize("family", FAMILIES)
def test_images_without_objects_train(family: str) -> None:
    torch.manual_seed(0)
    losses = build(FAMILIES[family][0]).loss(
        {"pixels": torch.randn(1, 3, 64, 96), "targets": [NOTHING]}
    )
    sum(value for name, value in losses.items() if "loss" in name).backward()
    assert all(value.isfinite() for value in losses.values())


@pytest.mark.parametrize("family", [name for name in FAMILIES if name not in UNCLIPPED])
@pytest.mark.parametrize("images", [1, 2])
def test_images_without_proposals(family: str, images: int) -> None:
    torch.manual_seed(0)
    config = FAMILIES[family][0]
    least = {**config["test_cfg"]["rpn"], "min_bbox_size": 1000}
    built = build({**config, "test_cfg": {**config["test_cfg"], "rpn": least}}).eval()
    for found in built.predict(
        {"pixels": torch.randn(images, 3, 64, 96), "image_sizes": [(64, 96)] * images}
    ):
        assert found.boxes.shape == (0, 4) and len(found) == 0
        assert found.masks is None or found.masks.shape == (0, 64, 96)


@pytest.mark.parametrize("family", FAMILIES)
def test_images_of_several_sizes_in_one_batch(family: str) -> None:
    torch.manual_seed(0)
    built = build(FAMILIES[family][0]).eval()
    pixels = torch.randn(2, 3, 64, 96)
    pixels[1, :, 48:], pixels[1, :, :, 64:] = 0, 0
    inputs: dict[str, Any] = {
        "pixels": pixels,
        "image_sizes": [(64, 96), (48, 64)],
        "scale_factors": [(2.0, 2.0), (0.5, 0.5)],
        "original_sizes": [(32, 48), (96, 128)],
    }
    found = built.predict(inputs)
    for each, (height, width) in zip(found, inputs["original_sizes"], strict=True):
        assert len(each) > 0 and (each.scores.diff() <= 0).all()
        if family not in (*UNCLIPPED, "grid"):  # Grid R-CNN clamps a copy of its boxes
            limit = torch.tensor([width, height, width, height]) + 1e-3
            assert (each.boxes >= 0).all() and (each.boxes <= limit).all()
        assert (each.masks is not None) == built.predicts_masks
        if each.masks is not None:
            assert each.masks.shape == (len(each), height, width)
    alone = built.predict({"pixels": pixels[:1], "image_sizes": [(64, 96)]})[0]
    assert torch.allclose(alone.boxes / 2, found[0].boxes, atol=1e-3)
    assert torch.allclose(alone.scores, found[0].scores, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "points"])
def test_the_exported_program_scores_the_proposals(family: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    built = build(FAMILIES[family][0]).eval()
    predictor = make("m", "1", built, {"preprocess": {"resize": {"exact": [64, 96]}}}, ())
    export(program(predictor, None), tmp_path / "m.pt2", "torch")
    pixels, mask = torch.randn(1, 3, 64, 96), torch.zeros(1, 64, 96, dtype=torch.bool)
    scores, boxes = torch.export.load(tmp_path / "m.pt2").module()(pixels, mask)
    best = built.predict({"pixels": pixels, "image_sizes": [(64, 96)]})[0]
    assert torch.allclose(scores.max(), best.scores[0], atol=1e-4)
    place = (scores[0] == scores.max()).nonzero()[0]
    assert torch.allclose(boxes[0, place[0], place[1]], best.boxes[0], atol=1e-2)


def test_detections_of_all_branches_are_merged() -> None:
    torch.manual_seed(0)
    built: Any = build(trident(test_branch=-1)).eval()
    inputs = {"pixels": torch.randn(2, 3, 64, 96), "image_sizes": [(64, 96)] * 2}
    branches = []
    for branch in (0, 1):
        one: Any = build(trident(test_branch=branch)).eval()
        one.load_state_dict(built.state_dict())
        branches.append(one.predict(inputs))
    for i, found in enumerate(built.predict(inputs)):
        boxes = torch.cat([each[i].boxes for each in branches])
        scores = torch.cat([each[i].scores for each in branches])
        labels = torch.cat([each[i].labels for each in branches])
        keep = nms(boxes, scores, 0.5, labels)[:10]
        assert torch.allclose(found.boxes, boxes[keep], atol=1e-3)
        assert torch.equal(found.labels, labels[keep])
    with pytest.raises(ValueError, match="an export has one branch"):
        built.scored_boxes(inputs["pixels"][:1])
    other = {**trident(), "roi_head": {**trident()["roi_head"], "num_branch": 3}}
    with pytest.raises(BuildError, match="the same num_branch and test_branch_idx"):
        build(other)


def test_proposals_of_points_are_not_exported(tmp_path: Path) -> None:
    built = build(FAMILIES["points"][0]).eval()
    predictor = make("points", "1", built, {}, ())
    with pytest.raises(InputError, match="proposals of FCOSHead cannot be exported"):
        export(program(predictor, (64, 96)), tmp_path / "points.pt2", "torch")


def test_regions_of_all_levels_are_joined() -> None:
    joined = MODELS.build(CONCAT)
    maps = [torch.full((1, 8, 8, 8), 2.0), torch.full((1, 8, 4, 4), 3.0)]
    rois = torch.tensor([[0.0, 4, 4, 40, 40]])
    assert joined(maps, rois)[0, :, 1, 1].tolist() == [2.0] * 8 + [3.0] * 8
    summed = MODELS.build({**CONCAT, "aggregation": "sum", "out_channels": 8})
    assert summed(maps, rois)[0, :, 1, 1].tolist() == [5.0] * 8
    with pytest.raises(ValueError, match="16 channels, not 8"):
        MODELS.build({**CONCAT, "out_channels": 8})(maps, rois)
