"""SimOTAAssigner: cells of the lowest cost of class and box, near the center of an object.

Letters: B images, A cells, V cells in a box or near its center in any image, N objects of an image,
padded, C classes.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cupola.models.boxes.assigning import NEGATIVE
from cupola.models.boxes.distances import centers, distances
from cupola.models.boxes.dynamic_k import dynamic_k
from cupola.models.dense.targets import PaddedTargets
from cupola.registry import TASK_UTILS
from cupola.structures.boxes import iou

FAR = 1e5  # what a cell costs that is not both in the box and near its center
EPS = 1e-7


@TASK_UTILS.register_module()
class SimOTAAssigner:
    """Cells within `center_radius` strides of a center or in a box are candidates.

    Source: section 2.1 of the paper; mmdet/models/task_modules/assigners/sim_ota_assigner.py.
    """

    def __init__(
        self,
        center_radius: float = 2.5,
        candidate_topk: int = 10,
        iou_weight: float = 3.0,
        cls_weight: float = 1.0,
        iou_calculator: Any = None,
    ) -> None:
        self.radius, self.topk = center_radius, candidate_topk
        self.iou_weight, self.cls_weight = iou_weight, cls_weight

    def __call__(
        self, cells: Tensor, scores: Tensor, boxes: Tensor, objects: PaddedTargets
    ) -> tuple[Tensor, Tensor]:
        """The objects [B, A] of cells, NEGATIVE without one, and the IoU of their boxes [B, A].

        Scores [B, A, C] and predicted boxes [B, A, 4] of cells [A, 4].
        """
        points, strides = centers(cells), cells[:, 2] - cells[:, 0]
        present = objects.present[:, None]
        inside = (distances(points[:, None], objects.boxes[:, None]).amin(-1) > 0) & present
        reach = strides[:, None, None] * self.radius
        middle = centers(objects.boxes)[:, None]
        around = torch.cat((middle - reach, middle + reach), -1)  # [B, A, N, 4]
        near = (distances(points[:, None], around).amin(-1) > 0) & present
        candidates = (inside | near).any(-1)  # [B, A]
        index = candidates.any(0).nonzero()[:, 0]
        overlaps = iou(boxes[:, index, None], objects.boxes[:, None])  # [B, V, N]
        cost = class_cost(scores[:, index], objects.labels) * self.cls_weight
        cost = cost - (overlaps + EPS).log() * self.iou_weight
        cost = cost + ~(inside & near)[:, index] * FAR
        owners = torch.full_like(candidates, NEGATIVE, dtype=torch.int64)
        metrics = torch.zeros_like(candidates, dtype=overlaps.dtype)
        possible = candidates[:, index, None] & present
        owners[:, index], metrics[:, index] = dynamic_k(cost, overlaps, possible, self.topk)
        return owners, metrics


def class_cost(scores: Tensor, labels: Tensor) -> Tensor:
    """Binary cross entropy [B, V, N] of scores [B, V, C] towards the labels [B, N].

    The loss of all other classes is the same for every object.
    """
    absent = F.binary_cross_entropy(scores, torch.zeros_like(scores), reduction="none")
    at = labels[:, None].expand(-1, scores.shape[1], -1)
    own = scores.gather(2, at)
    towards = F.binary_cross_entropy(own, torch.ones_like(own), reduction="none")
    return absent.sum(-1, keepdim=True) - absent.gather(2, at) + towards
