"""DynamicRoIHead: the assigner and the loss of boxes follow the proposals as they get better."""

from collections.abc import Mapping, Sequence
from statistics import fmean, median
from typing import Any

from torch import Tensor

from cupola.models.boxes import with_objects
from cupola.models.rcnn.masks import Size
from cupola.models.rcnn.sampling import RoISample
from cupola.models.rcnn.standard import Maps, StandardRoIHead, Targets
from cupola.registry import MODELS

Config = Mapping[str, Any]
LEAST = 1e-15  # a beta that small is left as it is


@MODELS.register_module()
class DynamicRoIHead(StandardRoIHead):
    """A StandardRoIHead that changes its IoU thresholds and the beta of SmoothL1Loss.

    Every `update_iter_interval` steps the thresholds become the mean of the images' `iou_topk`-th
    largest IoU, at least `initial_iou`, and beta the median of the `beta_topk`-th smallest errors,
    at most `initial_beta`. Source: Dynamic R-CNN (arXiv 2004.06002); mmdet's dynamic_roi_head.py.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.overlaps: list[float] = []
        self.errors: list[float] = []
        if not hasattr(self.bbox_head.loss_bbox, "beta"):
            raise ValueError("DynamicRoIHead changes beta: the head's loss_bbox is a SmoothL1Loss")

    def loss(
        self, maps: Maps, proposals: Sequence[Tensor], targets: Targets, sizes: Sequence[Size]
    ) -> dict[str, Tensor]:
        """As StandardRoIHead's."""
        losses = super().loss(maps, proposals, targets, sizes)
        if len(self.overlaps) % self.train_cfg["dynamic_rcnn"]["update_iter_interval"] == 0:
            self.update()
        return losses

    def sample(self, maps: Maps, proposals: Sequence[Tensor], targets: Targets) -> list[RoISample]:
        """The proposals of every image that train, whose overlaps and errors are noted."""
        samples = super().sample(maps, proposals, targets)
        cfg, largest = self.train_cfg["dynamic_rcnn"], []
        for each, target in zip(proposals, targets, strict=True):
            assert self.assigner is not None and self.sampler is not None
            objects = target["boxes"].to(each)
            assignment = self.assigner(each, objects)
            if self.sampler.add_gt_as_proposals:
                assignment = with_objects(assignment, len(objects))
            overlaps = assignment.overlaps
            if len(overlaps):
                largest.append(float(overlaps.topk(min(cfg["iou_topk"], len(overlaps))).values[-1]))
        self.overlaps.append(fmean(largest) if largest else 0.0)
        errors = [
            self.bbox_head.bbox_coder.encode(each.positive, each.targets)[:, :2].abs().mean(1)
            for each in samples
        ]
        found = sorted(value for each in errors for value in each.tolist())
        if found:
            self.errors.append(found[min(cfg["beta_topk"] * len(samples), len(found)) - 1])
        return samples

    def update(self) -> None:
        """Sets the thresholds and beta by what was noted, and forgets it."""
        cfg, assigner = self.train_cfg["dynamic_rcnn"], self.assigner
        assert assigner is not None
        threshold = max(cfg["initial_iou"], fmean(self.overlaps))
        assigner.positive = assigner.min_pos_iou = threshold
        assigner.negative = (0.0, threshold)
        if self.errors and median(self.errors) >= LEAST:
            self.bbox_head.loss_bbox.beta = min(cfg["initial_beta"], median(self.errors))
        self.overlaps, self.errors = [], []
