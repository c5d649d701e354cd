"""Centers of the cells of feature maps, in pixels."""

from collections.abc import Sequence

import torch
from torch import Tensor


def grid_points(
    maps: Sequence[Tensor], strides: Sequence[int], offset: float = 0.5
) -> list[Tensor]:
    """Maps [B, C, h, w] -> the centers of their cells [h * w, 2], (x, y) in pixels, row by row.

    Other offsets are other points of the cells, 0 the upper left corners.
    Source: mmdet/models/task_modules/prior_generators/point_generator.py.
    """
    points = []
    for each, stride in zip(maps, strides, strict=True):
        height, width = each.shape[-2:]
        y = (torch.arange(height, device=each.device) + offset) * stride
        x = (torch.arange(width, device=each.device) + offset) * stride
        grid = torch.meshgrid(y, x, indexing="ij")
        points.append(torch.stack((grid[1], grid[0]), -1).flatten(0, 1).to(each.dtype))
    return points
