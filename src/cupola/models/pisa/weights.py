"""Weights of prime samples, and the classification-aware loss of boxes.

Letters: P positive samples of a batch. Source: mmdet/models/losses/pisa_loss.py.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cupola.models.losses import L1Loss, SmoothL1Loss
from cupola.structures.boxes import iou

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Positives:
    """What a head predicts of positive samples, and what it should.

    labels [P]; objects [P], a number for each object of the batch; losses [P] of the classes;
    weights [P] that they have in the class loss; scores [P] of their classes. decoded and boxes
    [P, 4] are predictions and objects, xyxy; deltas and targets [P, 4] the same as deltas.
    """

    labels: Tensor
    objects: Tensor
    losses: Tensor
    weights: Tensor
    scores: Tensor
    decoded: Tensor
    boxes: Tensor
    deltas: Tensor
    targets: Tensor

    @torch.no_grad()
    def importance(self, k: float = 2, bias: float = 0) -> Tensor:
        """Weights [P] in the class loss, whose sum they keep: ISR of positive samples.

        The best boxes of all objects come first, then their second best, and so on.
        """
        if not len(self.labels):
            return self.weights
        rank = torch.zeros_like(self.labels)
        order = overlaps = iou(self.decoded, self.boxes)
        most = self.labels.bincount().max()
        for label in set(self.labels.tolist()):
            of_class = (self.labels == label).nonzero()[:, 0]
            for owner in set(self.objects[of_class].tolist()):
                members = of_class[self.objects[of_class] == owner]
                order = order.index_add(0, members, (most - ranks(overlaps[members])).to(order))
            rank[of_class] = ranks(order[of_class])
        prime = bias + (1 - bias) * self.weights * (most - rank) / most
        weights = prime.pow(k)
        ratio = (self.losses * self.weights).sum() / (self.losses * weights).sum()
        return weights * ratio

    def regression_loss(
        self, loss_bbox: Any, average: float, k: float = 1, bias: float = 0.2
    ) -> Tensor:
        """The loss of boxes, weighted by the scores, which have a gradient from it (CARL)."""
        weights = (bias + (1 - bias) * self.scores).pow(k)
        weights = weights * (len(weights) / weights.sum())
        loss: Tensor = loss_bbox.each(self.deltas, self.targets) / average
        return (loss * weights[:, None]).sum()


def ranks(values: Tensor) -> Tensor:
    """The rank of each value [N], 0 the largest."""
    return values.argsort(descending=True, stable=True).argsort()


def numbered(objects: Sequence[Tensor]) -> Tensor:
    """Indices of objects within their images [P_i] -> numbers of objects within the batch [P].

    An image goes on after the last index of the one before it, as in the original: from the third
    image on, two objects may have the same number.
    """
    found, after = [], 0
    for each in objects:
        found.append(each + after)
        if len(each):
            after = int(each.max()) + 1
    return torch.cat(found)


def check_box_loss(head: Any) -> None:
    """ValueError unless the loss of boxes is one of deltas, element by element."""
    if head.reg_decoded_bbox or not isinstance(head.loss_bbox, (L1Loss, SmoothL1Loss)):
        raise ValueError("PISA's loss_bbox is SmoothL1Loss or L1Loss, without reg_decoded_bbox")
