"""Models of MMDetection 2.x: settings that 3.x reads, and 2.x did not."""

from collections.abc import Mapping
from typing import Any

from cupola.registry import bare_type

# Of test_cfg, by the class of the head of one stage; of others those of DENSE.
DENSE = ("min_bbox_size",)
UNREAD = {"YOLOV3Head": ("min_bbox_size", "nms_pre")}
# Of heads of regions: the mean of the stages' masks, and scores of masks apart from those of boxes.
REGIONS = {
    "HybridTaskCascadeRoIHead": {"every_mask": True},
    "MaskScoringRoIHead": {"separate_scores": True},
}


def as_in_version_2(model: Mapping[str, Any]) -> dict[str, Any]:
    """The model of a 2.x config with the settings by which it predicts as 2.28.2.

    Heads of one stage keep boxes however small they are, YOLOv3 takes all cells to its NMS, Hybrid
    Task Cascade averages the masks of its stages, Mask Scoring R-CNN scores boxes by class only.
    """
    made = dict(model)
    head, test_cfg, regions = (made.get(key) for key in ("bbox_head", "test_cfg", "roi_head"))
    if isinstance(head, Mapping) and isinstance(test_cfg, Mapping) and regions is None:
        unread = UNREAD.get(bare_type(head) or "", DENSE)
        made["test_cfg"] = {k: v for k, v in test_cfg.items() if k not in unread}
    if isinstance(regions, Mapping):
        made["roi_head"] = {**REGIONS.get(bare_type(regions) or "", {}), **regions}
    return made
