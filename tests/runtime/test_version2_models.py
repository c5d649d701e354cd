"""Settings by which models of 2.x predict as MMDetection 2.x does."""

from typing import Any

import pytest
import torch

from cupola.registry import build
from cupola.runtime.published import bundle_config
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
