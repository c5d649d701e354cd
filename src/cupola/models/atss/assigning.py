"""ATSSAssigner: the anchors nearest to an object, if their IoU is above the mean.

Letters: A anchors, N objects of an image, K candidates of an object.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cupola.models.boxes import NEGATIVE, Assignment
from cupola.models.boxes.distances import centers, distances
from cupola.registry import TASK_UTILS, bare_type
from cupola.structures.boxes import pairwise_iou

LEAST = 0.01  # pixels between an anchor's center and the sides of its object
NONE = -1e8


@TASK_UTILS.register_module()
class ATSSAssigner:
    """Of each level the `topk` anchors nearest to an object's center are candidates.

    Positive are those whose IoU is at least mean plus standard deviation of the candidates', and
    whose center is in the object; of several objects the one of the largest IoU. With `alpha` the
    quality of predictions takes the IoU's place (see `by_prediction`).
    Source: section 3.2 of the paper; mmdet/models/task_modules/assigners/atss_assigner.py.
    """

    by_level = True

    def __init__(
        self,
        topk: int,
        alpha: float | None = None,
        iou_calculator: Any = None,
        ignore_iof_thr: float = -1,
    ) -> None:
        self.topk, self.alpha = topk, alpha
        named = iou_calculator or {"type": "BboxOverlaps2D"}
        plain = bare_type(named) == "BboxOverlaps2D"
        self.overlaps = pairwise_iou if plain else TASK_UTILS.build(named)

    def __call__(self, anchors: Tensor, boxes: Tensor, counts: Sequence[int]) -> Assignment:
        """Anchors [A, 4], `counts` of each level, objects' boxes [N, 4] -> Assignment."""
        if self.alpha is not None:
            raise ValueError("ATSSAssigner with alpha needs predictions, as DDODHead has them")
        return self._assigned(self.overlaps(anchors, boxes), anchors, boxes, counts)

    def by_prediction(
        self,
        anchors: Tensor,
        boxes: Tensor,
        counts: Sequence[int],
        scores: Tensor,
        predicted: Tensor,
    ) -> Assignment:
        """The same by scores^(1 - alpha) * IoU^alpha of what the anchors predict (DDOD).

        scores [A, N] are those of the objects' classes, 0..1; predicted are boxes [A, 4].
        """
        if self.alpha is None:
            raise ValueError("ATSSAssigner has no alpha, which weighs scores and IoUs")
        overlaps = self.overlaps(predicted, boxes).pow(self.alpha)
        return self._assigned(scores.pow(1 - self.alpha) * overlaps, anchors, boxes, counts)

    def _assigned(
        self, overlaps: Tensor, anchors: Tensor, boxes: Tensor, counts: Sequence[int]
    ) -> Assignment:
        if not len(boxes) or not len(anchors):
            nothing = torch.full((len(anchors),), NEGATIVE, device=anchors.device)
            return Assignment(nothing, anchors.new_zeros(len(anchors)))
        far = (centers(anchors)[:, None] - centers(boxes)).square().sum(-1).sqrt()
        chosen, start = [], 0
        for level in torch.split(far, list(counts)):
            nearest = level.topk(min(self.topk, len(level)), 0, largest=False).indices
            chosen.append(nearest + start)
            start += len(level)
        candidates = torch.cat(chosen)  # [K, N]
        found = overlaps.gather(0, candidates)  # [A, N] -> [K, N]
        positive = found >= found.mean(0) + found.std(0)
        inside = distances(centers(anchors)[candidates], boxes).amin(-1) > LEAST  # [K, N]
        return of_candidates(overlaps, candidates, positive & inside)


def of_candidates(overlaps: Tensor, candidates: Tensor, positive: Tensor) -> Assignment:
    """IoU [A, N], candidates' anchors [K, N] and which are positive [K, N] -> Assignment.

    An anchor that is positive for several objects is for the one of the largest IoU.
    """
    best = torch.full_like(overlaps, NONE)
    anchor, number = candidates[positive], positive.nonzero()[:, 1]
    best[anchor, number] = overlaps[anchor, number]
    largest, owner = best.max(1)
    return Assignment(torch.where(largest == NONE, NEGATIVE, owner), largest)
