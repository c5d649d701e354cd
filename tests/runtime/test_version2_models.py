"""Settings by which models of 2.x predict as MMDetection 2.x does."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from cupola.metrics.coco import CocoMetric
from cupola.registry import build
from cupola.runtime.published import bundle_config
from cupola.structures import Detections
from models.dense.dense_small import model as dense
from models.rcnn.rcnn_small import model

STEPS = [{"type": "MultiScaleFlipAug", "img_scale": (96, 64), "transforms": [{"type": "Resize"}]}]
OLD = {"data": {"test": {"pipeline": STEPS}}}


def of_both(made: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The model of a bundle for a config of 3.x, and of 2.x."""
    new = {"test_pipeline": [{"type": "Resize", "scale": (96, 64), "keep_ratio": True}]}
    return tuple(bundle_config({"model": made, **each}, "toy")["model"] for each in (new, OLD))  # type: ignore[return-value]


@pytest.mark.parametrize(("family", "unread"), [("retinanet", {"min_bbox_size"})])
def test_one_stage(family: str, unread: set[str]) -> None:
    new, old = of_both(dense(family))
    assert new["test_cfg"].keys() - old["test_cfg"].keys() == unread


def test_yolov3_takes_all_cells() -> None:
    head = {"type": "YOLOV3Head", "num_classes": 3, "in_channels": [8]}
    test = {"nms_pre": 9, "min_bbox_size": 0, "score_thr": 0.1}
    new, old = of_both({"type": "YOLOV3", "bbox_head": head, "test_cfg": test})
    assert new["test_cfg"] == test and old["test_cfg"] == {"score_thr": 0.1}


def test_the_first_stage_reads_them() -> None:
    new, old = of_both(model())
    assert old["test_cfg"] == new["test_cfg"] and "min_bbox_size" in old["test_cfg"]["rpn"]


@torch.no_grad()
def test_htc_averages_the_masks_of_its_stages() -> None:
    torch.manual_seed(0)
    new, old = (build(each).eval() for each in of_both(model(masks=True, cascade=True, htc=True)))
    old.load_state_dict(new.state_dict())
    rois = torch.tensor([[0.0, 3, 5, 60, 50], [0, 20, 8, 80, 30]])
    head = new.roi_head
    maps = head.with_semantic(new.maps(torch.randn(1, 3, 64, 96)))
    regions = head.mask_regions(1, maps, rois)
    last, first = (head.stage_masks(stage, regions).sigmoid() for stage in (1, 0))
    torch.testing.assert_close(head.masks_of_stages(maps, rois), last)
    torch.testing.assert_close(old.roi_head.masks_of_stages(maps, rois), (first + last) / 2)


@torch.no_grad()
def test_mask_scoring_keeps_the_scores_of_boxes() -> None:
    torch.manual_seed(0)
    new, old = (build(each).eval() for each in of_both(model(masks=True, scoring=True)))
    old.load_state_dict(new.state_dict())
    maps = new.maps(torch.randn(1, 3, 64, 96))
    proposals = [torch.tensor([[3.0, 5, 60, 50], [20, 8, 80, 30]])]
    both = (
        each.roi_head.predict(maps, proposals, [(64, 96)], [None], [(64, 96)])[0]
        for each in (new, old)
    )
    one, apart = both
    assert one.mask_scores is None and apart.mask_scores is not None and len(apart) > 1
    order = apart.mask_scores.argsort(descending=True)
    torch.testing.assert_close(one.scores, apart.mask_scores[order])
    assert torch.equal(one.masks, apart.masks[order]) and torch.equal(one.boxes, apart.boxes[order])
    boxes = old.roi_head.predict_boxes(maps, proposals, [(64, 96)], [None])[0]
    assert torch.equal(apart.scores, boxes.scores) and (apart.scores.diff() <= 0).all()
    kept = apart.above(float(apart.scores[1]))
    assert kept.mask_scores is not None and len(kept.mask_scores) == len(kept) < len(apart)
    assert apart.to_list()[0]["mask_score"] == pytest.approx(float(apart.mask_scores[0]))


def test_ap_of_masks_with_their_own_scores() -> None:
    """The better box is scored first as a box, and second as a mask."""
    masks = torch.zeros(2, 20, 20, dtype=torch.bool)
    masks[0, :10, :10] = masks[1, 10:, 10:] = True
    boxes = torch.tensor([[0.0, 0, 10, 10], [10, 10, 20, 20]])
    found = Detections(
        boxes, torch.tensor([0.9, 0.8]), torch.zeros(2, dtype=torch.int64), masks=masks
    )
    found = replace(found, mask_scores=torch.tensor([0.1, 0.2]))
    target = {"boxes": boxes[:1], "labels": torch.tensor([0]), "masks": masks[:1]}
    metric = CocoMetric(metric=["bbox", "segm"])
    metric.update(
        {"targets": [target], "original_sizes": [(20, 20)], "scale_factors": [(1.0, 1.0)]}, [found]
    )
    values = metric.compute()
    assert values["AP"] == pytest.approx(1) and values["mask_AP"] == pytest.approx(0.5)
