"""Boxes as distances of a point to their sides (FCOS, arXiv 1904.01355).

Source: mmdet/models/task_modules/coders/distance_point_bbox_coder.py.
"""

import torch
from torch import Tensor

from cupola.models.boxes.deltas import Size, clip
from cupola.registry import TASK_UTILS


def distances(points: Tensor, boxes: Tensor) -> Tensor:
    """Points [..., 2] and boxes [..., 4], xyxy -> left, top, right, bottom distances [..., 4]."""
    return torch.cat((points - boxes[..., :2], boxes[..., 2:] - points), -1)


def boxes_around(points: Tensor, sides: Tensor) -> Tensor:
    """Points [..., 2] and distances [..., 4] -> boxes [..., 4], xyxy."""
    return torch.cat((points - sides[..., :2], points + sides[..., 2:]), -1)


def centers(boxes: Tensor) -> Tensor:
    """The centers of boxes [..., 4], xyxy -> [..., 2]."""
    return (boxes[..., :2] + boxes[..., 2:]) / 2


def centerness(sides: Tensor) -> Tensor:
    """Distances [P, 4] -> 1 at the center of the box, 0 at its sides (FCOS's equation 3)."""
    horizontal, vertical = sides[:, 0::2], sides[:, 1::2]
    product = horizontal.amin(-1) / horizontal.amax(-1) * (vertical.amin(-1) / vertical.amax(-1))
    return product.sqrt()


@TASK_UTILS.register_module()
class DistancePointBBoxCoder:
    """Distances to the sides, and back; decoded boxes are clipped unless `clip_border` is False."""

    size = 4

    def __init__(self, clip_border: bool = True, use_box_type: bool = False) -> None:
        self.clip_border = clip_border

    def encode(self, points: Tensor, boxes: Tensor, limit: float | None = None) -> Tensor:
        """Points [N, 2], boxes [N, 4] -> distances [N, 4], within 0..limit - 0.1 if it is set."""
        sides = distances(points, boxes)
        return sides if limit is None else sides.clamp(0, limit - 0.1)

    def decode(self, points: Tensor, sides: Tensor, size: Size | None = None) -> Tensor:
        """Points [..., 2], distances [..., 4] -> boxes [..., 4] within `size` (height, width)."""
        boxes = boxes_around(points, sides)
        return clip(boxes, size) if size is not None and self.clip_border else boxes
