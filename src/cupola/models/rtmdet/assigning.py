"""DynamicSoftLabelAssigner: cells of the lowest cost of class, box and place.

Letters: A cells, V cells within an object, N objects of an image, C classes.
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
        self,
        anchors: Tensor,
        logits: Tensor,
        boxes: Tensor,
        objects: Tensor,
        labels: Tensor,
        masks: Tensor | None = None,
    ) -> Assignment:
        """Logits [A, C] and predicted boxes [A, 4] of cells [A, 4], squares of the stride's size.

        Objects [N, 4] with labels [N], and their masks [N, H, W] where their centers are to be
        those of the masks.
        """
        points, strides = centers(anchors), anchors[:, 2] - anchors[:, 0]
        usable = (distances(points[:, None], objects).amin(-1) > 0).any(1)
        points, strides, logits = points[usable], strides[usable], logits[usable]
        middle = centers(objects) if masks is None else mask_centers(masks).to(objects)
        away = (points[:, None] - middle).square().sum(-1).sqrt() / strides[:, None]  # [V, N]
        overlaps = pairwise_iou(boxes[usable], objects)
        goal = F.one_hot(labels, logits.shape[-1]) * overlaps[..., None]  # [V, N, C]
        every = logits[:, None].expand_as(goal)
        entropy = F.binary_cross_entropy_with_logits(every, goal, reduction="none")
        class_cost = (entropy * (goal - every.sigmoid()).square()).sum(-1)
        box_cost = -(overlaps + EPS).log() * self.iou_weight
        cost = class_cost + box_cost + 10 ** (away - self.radius)
        return dynamic_k(cost, overlaps, usable, self.topk)


def mask_centers(masks: Tensor) -> Tensor:
    """The centers of mass of masks [N, H, W] -> (x, y) [N, 2]."""
    weight = masks.float()
    total = weight.sum((1, 2)).clamp(min=EPS)
    y = (weight.sum(2) * torch.arange(masks.shape[1], device=masks.device)).sum(1) / total
    x = (weight.sum(1) * torch.arange(masks.shape[2], device=masks.device)).sum(1) / total
    return torch.stack((x, y), 1)
