"""UniformAssigner: every object has the same number of anchors.

Letters: A anchors, N objects of an image, k anchors of an object, M = 2 * k * N pairs.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from cupola.models.boxes.assigning import IGNORED, NEGATIVE
from cupola.registry import TASK_UTILS
from cupola.structures.boxes import pairwise_iou, xyxy_to_cxcywh


class UniformPairs(NamedTuple):
    """owners [A]: an object, NEGATIVE or IGNORED. anchors, objects, used (bool): of pairs [M].

    Boxes train by the pairs that are used, where an anchor may be in several.
    """

    owners: Tensor
    anchors: Tensor
    objects: Tensor
    used: Tensor


@TASK_UTILS.register_module()
class UniformAssigner:
    """The `match_times` nearest anchors of an object, and those of the nearest predicted boxes.

    Pairs whose anchor has an IoU below `pos_ignore_thr` are ignored, and so are other anchors whose
    predicted box has one above `neg_ignore_thr`.
    Source: section 4.2 of the paper; mmdet/models/task_modules/assigners/uniform_assigner.py.
    """

    def __init__(
        self,
        pos_ignore_thr: float,
        neg_ignore_thr: float,
        match_times: int = 4,
        iou_calculator: Any = None,
    ) -> None:
        self.least, self.most, self.times = pos_ignore_thr, neg_ignore_thr, match_times

    def __call__(self, anchors: Tensor, boxes: Tensor, objects: Tensor) -> UniformPairs:
        """Anchors and predicted boxes [A, 4], objects [N, 4], xyxy -> UniformPairs."""
        owners = torch.full((len(anchors),), NEGATIVE, device=anchors.device)
        if not len(objects):
            nothing = owners[:0]
            return UniformPairs(owners, nothing, nothing, nothing.bool())
        near = [nearest(each, objects, self.times) for each in (boxes, anchors)]  # [k, N] each
        index = torch.cat(near, 1).flatten()  # [M]
        numbers = torch.arange(len(objects), device=index.device).repeat(2 * len(near[0]))
        used = pairwise_iou(anchors, objects)[index, numbers] >= self.least
        owners[pairwise_iou(boxes, objects).amax(1) > self.most] = IGNORED
        owners[index] = torch.where(used, numbers, IGNORED)
        return UniformPairs(owners, index, numbers, used)


def nearest(boxes: Tensor, objects: Tensor, count: int) -> Tensor:
    """The `count` boxes [A, 4] with the least L1 distance of centers and sides, [count, N]."""
    away = torch.cdist(xyxy_to_cxcywh(boxes), xyxy_to_cxcywh(objects), p=1)
    return away.topk(min(count, len(boxes)), 0, largest=False).indices
