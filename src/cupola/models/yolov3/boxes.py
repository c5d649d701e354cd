"""Anchors of given sizes, their deltas, and the cells that answer for an object.

Letters: A anchors, N objects of an image. Source: mmdet/models/task_modules.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cupola.models.boxes import IGNORED, NEGATIVE, AnchorGenerator, Assignment
from cupola.models.boxes.anchors import CPU, Pair, stride_pairs
from cupola.models.boxes.distances import centers
from cupola.registry import TASK_UTILS
from cupola.structures.boxes import pairwise_iou


@TASK_UTILS.register_module()
class YOLOAnchorGenerator(AnchorGenerator):
    """Anchors of the `base_sizes` (width, height) of each level around the centers of cells."""

    def __init__(
        self,
        strides: Sequence[Pair],
        base_sizes: Sequence[Sequence[Sequence[float]]],
        use_box_type: bool = False,
    ) -> None:
        self.strides = stride_pairs(strides)
        if len(base_sizes) != len(self.strides):
            raise ValueError("base_sizes have one list for each of the strides")
        self.base_anchors = []
        for stride, level in zip(self.strides, base_sizes, strict=True):
            half = torch.tensor([list(map(float, each)) for each in level], device=CPU) / 2
            middle = torch.tensor([stride[0] / 2, stride[1] / 2], device=CPU)
            self.base_anchors.append(torch.cat((middle - half, middle + half), -1))


@TASK_UTILS.register_module()
class YOLOBBoxCoder:
    """The center's place in its cell, 0..1, and logs of the sides over the anchor's."""

    size = 4

    def __init__(self, eps: float = 1e-6, use_box_type: bool = False) -> None:
        self.eps = eps

    def encode(self, anchors: Tensor, boxes: Tensor, strides: Tensor) -> Tensor:
        """Anchors and boxes [N, 4], strides [N] -> [N, 4]."""
        place = (centers(boxes) - centers(anchors)) / strides[:, None] + 0.5
        sides = (boxes[:, 2:] - boxes[:, :2]) / (anchors[:, 2:] - anchors[:, :2])
        return torch.cat((place.clamp(self.eps, 1 - self.eps), sides.clamp(min=self.eps).log()), -1)

    def decode(self, anchors: Tensor, rows: Tensor, stride: float) -> Tensor:
        """Anchors [..., 4], rows [..., 4] with the place in 0..1 -> boxes [..., 4]."""
        center = centers(anchors) + (rows[..., :2] - 0.5) * stride
        half = (anchors[..., 2:] - anchors[..., :2]) * 0.5 * rows[..., 2:].exp()
        return torch.cat((center - half, center + half), -1)


@TASK_UTILS.register_module()
class GridAssigner:
    """Only anchors of the cell that holds an object's center may be positive.

    Those above `pos_iou_thr` are, and an object's best if its IoU is above `min_pos_iou`; others up
    to `neg_iou_thr` are background.
    """

    def __init__(
        self,
        pos_iou_thr: float,
        neg_iou_thr: float | Sequence[float],
        min_pos_iou: float = 0.0,
        gt_max_assign_all: bool = True,
        iou_calculator: Any = None,
    ) -> None:
        self.positive, self.least, self.all_best = pos_iou_thr, min_pos_iou, gt_max_assign_all
        interval = neg_iou_thr if isinstance(neg_iou_thr, Sequence) else (-1.0, neg_iou_thr)
        self.negative = (float(interval[0]), float(interval[1]))

    def __call__(self, anchors: Tensor, boxes: Tensor, responsible: Tensor) -> Assignment:
        """Anchors [A, 4], objects [N, 4], and which anchors' cells hold a center [A], bool."""
        if not len(boxes):
            nothing = torch.full((len(anchors),), NEGATIVE, device=anchors.device)
            return Assignment(nothing, anchors.new_zeros(len(anchors)))
        overlaps = pairwise_iou(boxes, anchors)
        largest, owner = overlaps.max(0)
        objects = torch.full_like(owner, IGNORED)
        objects[(largest > self.negative[0]) & (largest <= self.negative[1])] = NEGATIVE
        overlaps = torch.where(responsible, overlaps, -1.0)
        largest, owner = overlaps.max(0)
        positive = (largest > self.positive) & responsible
        objects[positive] = owner[positive]
        for number, (best, where) in enumerate(zip(*overlaps.max(1), strict=True)):
            if best <= self.least:
                continue
            if self.all_best:
                objects[(overlaps[number] == best) & responsible] = number
            elif responsible[where]:
                objects[where] = number
        return Assignment(objects, largest)
