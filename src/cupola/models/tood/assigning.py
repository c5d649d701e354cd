"""TaskAlignedAssigner: the cells whose class and box fit an object best.

Letters: A cells, N objects of an image, K candidates of an object.
"""

from typing import Any

import torch
from torch import Tensor

from cupola.models.atss.assigning import LEAST, of_candidates
from cupola.models.boxes import NEGATIVE, Assignment
from cupola.models.boxes.distances import centers, distances
from cupola.registry import TASK_UTILS
from cupola.structures.boxes import pairwise_iou


@TASK_UTILS.register_module()
class TaskAlignedAssigner:
    """The `topk` cells of the largest score^alpha * IoU^beta whose centers are in the object.

    Source: section 3.2 of the paper; mmdet/models/task_modules/assigners.
    """

    def __init__(self, topk: int, iou_calculator: Any = None) -> None:
        self.topk = topk

    def __call__(
        self,
        anchors: Tensor,
        scores: Tensor,
        boxes: Tensor,
        objects: Tensor,
        labels: Tensor,
        alpha: float,
        beta: float,
    ) -> tuple[Assignment, Tensor]:
        """Scores [A, C] and predicted boxes [A, 4] of anchors [A, 4]; objects [N, 4], labels [N].

        -> Assignment, and the alignment [A] of each cell with its object, at most its best IoU.
        """
        zero = boxes.new_zeros(len(boxes))
        if not len(objects) or not len(anchors):
            nothing = torch.full((len(anchors),), NEGATIVE, device=anchors.device)
            return Assignment(nothing, zero), zero
        overlaps = pairwise_iou(boxes, objects)  # [A, N]
        metric = scores[:, labels] ** alpha * overlaps**beta
        best, candidates = metric.topk(min(self.topk, len(metric)), 0)  # [K, N]
        inside = distances(centers(anchors)[candidates], objects).amin(-1) > LEAST
        found = of_candidates(overlaps, candidates, (best > 0) & inside)
        align = zero.clone()
        for number in torch.unique(found.objects[found.objects >= 0]).tolist():
            own = found.objects == number
            values = metric[own, number]
            align[own] = values / (values.max() + 1e-7) * overlaps[own, number].max()
        return found, align
