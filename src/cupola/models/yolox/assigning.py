"""SimOTAAssigner: cells of the lowest cost of class and box, near the center of an object.

Letters: A cells, V cells in a box or near its center, N objects of an image, C classes.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cupola.models.boxes import Assignment
from cupola.models.boxes.distances import centers, distances
from cupola.models.boxes.dynamic_k import dynamic_k
from cupola.registry import TASK_UTILS
from cupola.structures.boxes import pairwise_iou

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
        self, cells: Tensor, scores: Tensor, boxes: Tensor, objects: Tensor, labels: Tensor
    ) -> Assignment:
        """Scores [A, C] and predicted boxes [A, 4] of cells [A, 4]; objects [N, 4], labels [N]."""
        points, strides = centers(cells), cells[:, 2] - cells[:, 0]
        inside = distances(points[:, None], objects).amin(-1) > 0  # [A, N]
        reach = strides[:, None, None] * self.radius
        middle = centers(objects)
        around = torch.cat((middle - reach, middle + reach), -1)  # [A, N, 4]
        near = distances(points[:, None], around).amin(-1) > 0
        usable = (inside | near).any(1)
        overlaps = pairwise_iou(boxes[usable], objects)  # [V, N]
        goal = F.one_hot(labels, scores.shape[-1]).to(scores).expand(len(overlaps), -1, -1)
        every = scores[usable][:, None].expand_as(goal)
        class_cost = F.binary_cross_entropy(every, goal, reduction="none").sum(-1)
        cost = class_cost * self.cls_weight - (overlaps + EPS).log() * self.iou_weight
        cost = cost + ~(inside & near)[usable] * FAR
        return dynamic_k(cost, overlaps, usable, self.topk)
