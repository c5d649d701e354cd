"""Which object each anchor or proposal is for, by IoU.

Letters: A anchors, N objects of an image.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cupola.models.boxes.repeated import Spread, set_apart
from cupola.registry import TASK_UTILS
from cupola.structures.boxes import pairwise_iou

NEGATIVE, IGNORED = -1, -2


class Assignment(NamedTuple):
    """objects [A], int64: the index of each anchor's object, NEGATIVE or IGNORED.

    overlaps [A]: the largest IoU of each anchor with an object. proposals: what a head predicts of
    them, for samplers that choose by it.
    """

    objects: Tensor
    overlaps: Tensor
    proposals: Any = None


@TASK_UTILS.register_module()
class MaxIoUAssigner:
    """An anchor is for the object it overlaps most, if the IoU is at least `pos_iou_thr`.

    Below `neg_iou_thr` (or within the interval that it gives) it is background. With
    `match_low_quality` an object's best anchors, if their IoU is at least `min_pos_iou`, are for
    it in any case: all of equal IoU, or with `gt_max_assign_all` False one. `perm_repeat_gt_cfg`
    sets objects of the same box apart (see Spread). Settings of ignored boxes have no effect:
    annotations of crowds are left out of training.
    Source: mmdet/models/task_modules/assigners/max_iou_assigner.py.
    """

    def __init__(
        self,
        pos_iou_thr: float,
        neg_iou_thr: float | Sequence[float],
        min_pos_iou: float = 0.0,
        gt_max_assign_all: bool = True,
        ignore_iof_thr: float = -1,
        ignore_wrt_candidates: bool = True,
        match_low_quality: bool = True,
        gpu_assign_thr: float = -1,
        iou_calculator: Any = None,
        perm_repeat_gt_cfg: Mapping[str, float] | None = None,
    ) -> None:
        self.positive = pos_iou_thr
        interval = neg_iou_thr if isinstance(neg_iou_thr, Sequence) else (0.0, neg_iou_thr)
        self.negative = (float(interval[0]), float(interval[1]))
        self.min_pos_iou = min_pos_iou
        self.all_best = gt_max_assign_all
        self.match_low_quality = match_low_quality
        self.spread = None if perm_repeat_gt_cfg is None else Spread(**perm_repeat_gt_cfg)

    def __call__(self, anchors: Tensor, boxes: Tensor) -> Assignment:
        """Anchors [A, 4] and objects' boxes [N, 4], xyxy -> Assignment."""
        if not len(boxes) or not len(anchors):
            nothing = torch.full((len(anchors),), NEGATIVE, device=anchors.device)
            return Assignment(nothing, anchors.new_zeros(len(anchors)))
        if self.spread is not None:
            boxes = set_apart(boxes, self.spread)
        return self.from_overlaps(pairwise_iou(boxes, anchors))

    def from_overlaps(self, overlaps: Tensor) -> Assignment:
        """IoU of objects with anchors [N, A] -> Assignment."""
        largest, owner = overlaps.max(0)  # [A]
        objects = torch.full_like(owner, IGNORED)
        low, high = self.negative
        objects[(largest >= low) & (largest < high)] = NEGATIVE
        positive = largest >= self.positive
        objects[positive] = owner[positive]
        if self.match_low_quality:
            best, where = overlaps.max(1)  # [N]
            enough = best >= self.min_pos_iou
            if self.all_best:
                forced = (overlaps == best[:, None]) & enough[:, None]
            else:
                forced = torch.zeros_like(overlaps, dtype=torch.bool)
                forced[enough.nonzero()[:, 0], where[enough]] = True
            number = torch.arange(len(overlaps), device=overlaps.device)[:, None]
            last = torch.where(forced, number, NEGATIVE).amax(0)  # the last object wins
            objects = torch.where(last >= 0, last, objects)
        return Assignment(objects, largest)


@TASK_UTILS.register_module()
class ApproxMaxIoUAssigner(MaxIoUAssigner):
    """Assigns groups of anchors by the largest IoU of a group; guided anchors are such groups.

    Source: mmdet/models/task_modules/assigners/approx_max_iou_assigner.py.
    """

    def __call__(self, anchors: Tensor, boxes: Tensor) -> Assignment:
        """Groups of anchors [A, K, 4] and objects' boxes [N, 4], xyxy -> Assignment of groups."""
        if not len(boxes) or not len(anchors):
            return super().__call__(anchors[:, 0], boxes)
        overlaps = pairwise_iou(boxes, anchors.flatten(0, 1))
        return self.from_overlaps(overlaps.view(-1, *anchors.shape[:2]).amax(-1))
