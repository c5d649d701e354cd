"""DynamicSoftLabelAssigner: cells of the lowest cost of class, box and place.

Letters: B images, A cells, V cells within an object of any image, N objects of an image, padded,
C classes.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cupola.models.boxes.assigning import IGNORED, NEGATIVE
from cupola.models.boxes.distances import centers, distances
from cupola.models.boxes.dynamic_k import dynamic_k
from cupola.models.dense.targets import PaddedTargets
from cupola.registry import TASK_UTILS
from cupola.structures.boxes import iou

EPS = 1e-7


@TASK_UTILS.register_module()
class DynamicSoftLabelAssigner:
    """The classes' cost is a quality focal loss towards the IoU; centers cost by their distance.

    Source: section 3.3 of the paper; mmdet/models/task_modules/assigners.
    """

    def __init__(
        self,
        soft_center_radius: float = 3.0,
        topk: int = 13,
        iou_weight: float = 3.0,
        iou_calculator: Any = None,
    ) -> None:
        self.radius, self.topk, self.iou_weight = soft_center_radius, topk, iou_weight

    def __call__(
        self, anchors: Tensor, usable: Tensor, logits: Tensor, boxes: Tensor, objects: PaddedTargets
    ) -> tuple[Tensor, Tensor]:
        """The objects [B, A] of cells (or NEGATIVE, IGNORED) and the IoU of their boxes [B, A].

        Cells [A, 4] are squares of the stride's size, `usable` [B, A] those that train; logits
        [B, A, C]; predicted boxes [B, A, 4].
        """
        points, strides = centers(anchors), anchors[:, 2] - anchors[:, 0]
        inside = distances(points[:, None], objects.boxes[:, None]).amin(-1) > 0  # [B, A, N]
        candidates = (inside & objects.present[:, None]).any(-1) & usable  # [B, A]
        index = candidates.any(0).nonzero()[:, 0]
        middle = centers(objects.boxes) if objects.centers is None else objects.centers
        away = points[index, None] - middle[:, None]  # [B, V, N, 2]
        away = away.square().sum(-1).sqrt() / strides[index, None]
        overlaps = iou(boxes[:, index, None], objects.boxes[:, None])
        cost = (
            class_cost(logits[:, index], overlaps, objects.labels)
            - (overlaps + EPS).log() * self.iou_weight
            + 10 ** (away - self.radius)
        )
        possible = candidates[:, index, None] & objects.present[:, None]
        owners = torch.where(usable, NEGATIVE, IGNORED)
        metrics = torch.zeros_like(candidates, dtype=overlaps.dtype)
        found, metrics[:, index] = dynamic_k(cost, overlaps, possible, self.topk)
        owners[:, index] = torch.where(usable[:, index], found, IGNORED)
        return owners, metrics


def class_cost(logits: Tensor, overlaps: Tensor, labels: Tensor) -> Tensor:
    """Quality focal loss [B, V, N] of logits [B, V, C] towards the IoU [B, V, N] at labels [B, N].

    The loss of all other classes, whose goal is 0, is the same for every object.
    """
    background = F.softplus(logits) * logits.sigmoid().square()
    at = labels[:, None].expand_as(overlaps)
    own = logits.gather(2, at)
    entropy = F.binary_cross_entropy_with_logits(own, overlaps, reduction="none")
    towards = entropy * (overlaps - own.sigmoid()).square()
    return background.sum(-1, keepdim=True) - background.gather(2, at) + towards
