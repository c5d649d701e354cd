"""How boxes overlap, by the names of configs."""

from typing import Any

import torch
from torch import Tensor

from cupola.registry import TASK_UTILS
from cupola.structures.boxes import pairwise_iou


@TASK_UTILS.register_module()
class BboxOverlaps2D:
    """IoU of boxes, as all assigners use it.

    Source: mmdet/models/task_modules/assigners/iou2d_calculator.py.
    """

    def __init__(self, scale: float = 1.0, dtype: Any = None) -> None:
        self.scale = scale

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """a [N, 4], b [M, 4], xyxy -> [N, M]"""
        return pairwise_iou(a, b)


@TASK_UTILS.register_module("BboxOverlaps2D_GLIP")
class InclusiveOverlaps:
    """IoU of boxes whose last pixel belongs to them, as GLIP was trained with.

    Source: mmdet/models/task_modules/assigners/iou2d_calculator.py.
    """

    def __init__(self, scale: float = 1.0, dtype: Any = None) -> None:
        self.scale = scale

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """a [N, 4], b [M, 4], xyxy -> [N, M]"""
        low = torch.maximum(a[:, None, :2], b[:, :2])
        high = torch.minimum(a[:, None, 2:], b[:, 2:])
        common = (high - low + 1).clamp(min=0).prod(-1)
        area, other = ((each[:, 2:] - each[:, :2] + 1).prod(-1) for each in (a, b))
        return common / (area[:, None] + other - common)
