"""Values at points, and the points where masks are uncertain (PointRend, arXiv 1912.08193).

Letters: M masks, C channels, h and w their size, P points. Points are (x, y) in 0..1 of the mask.
Source: mmdet/models/utils/point_sample.py.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def point_sample(masks: Tensor, points: Tensor) -> Tensor:
    """masks [M, h, w] at points [M, P, 2] by bilinear interpolation -> [M, P]; 0 outside."""
    return values_at(masks[:, None], points)[:, 0]


def values_at(maps: Tensor, points: Tensor) -> Tensor:
    """maps [M, C, h, w] at points [M, P, 2] by bilinear interpolation -> [M, C, P]; 0 outside."""
    grid = (2 * points - 1)[:, :, None]  # [M, P, 1, 2]
    return F.grid_sample(maps, grid, align_corners=False)[..., 0]


@torch.no_grad()
def uncertain_points(masks: Tensor, count: int, oversample: float, importance: float) -> Tensor:
    """Points of mask logits [M, h, w] to train at: [M, count, 2].

    Of `oversample` times `count` random points, those with logits closest to 0 make up the
    fraction `importance`; the rest is random again.
    """
    like: dict[str, Any] = {"dtype": masks.dtype, "device": masks.device}
    drawn = torch.rand(len(masks), int(count * oversample), 2, **like)
    logits = point_sample(masks, drawn)
    important = int(importance * count)
    index = (-logits.abs()).topk(important, dim=1).indices  # [M, important]
    chosen = drawn.gather(1, index[..., None].expand(-1, -1, 2))
    if count == important:
        return chosen
    rest = torch.rand(len(masks), count - important, 2, **like)
    return torch.cat((chosen, rest), 1)
