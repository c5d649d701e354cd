"""Heatmaps with a peak at every object.

Source: CornerNet (arXiv 1808.01244), section 3.2; mmdet/models/utils/gaussian_target.py.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def gaussian_radius(height: float, width: float, least: float) -> float:
    """How far both corners of a box may move so that the IoU stays at least `least`.

    The smallest of three cases: one corner moves in and one out, both in, or both out.
    """
    total, area = height + width, height * width
    mixed = (total - math.sqrt(total**2 - 4 * area * (1 - least) / (1 + least))) / 2
    inner = (2 * total - math.sqrt(4 * total**2 - 16 * (1 - least) * area)) / 8
    b = -2 * least * total
    outer = (b + math.sqrt(b**2 - 16 * least * (least - 1) * area)) / (8 * least)
    return min(mixed, inner, outer)


def draw_gaussian(heatmap: Tensor, x: int, y: int, radius: int) -> None:
    """Raises a heatmap [h, w] in place to a Gaussian of 1 at (x, y), 0 beyond the radius."""
    height, width = heatmap.shape
    sigma = (2 * radius + 1) / 6
    across = torch.arange(max(x - radius, 0), min(x + radius + 1, width), device=heatmap.device)
    down = torch.arange(max(y - radius, 0), min(y + radius + 1, height), device=heatmap.device)
    away = (down[:, None] - y).square() + (across - x).square()
    values = (-away / (2 * sigma * sigma)).exp().to(heatmap.dtype)
    values[values < torch.finfo(values.dtype).eps] = 0
    place = heatmap[int(down[0]) : int(down[-1]) + 1, int(across[0]) : int(across[-1]) + 1]
    torch.maximum(place, values, out=place)


def local_maxima(heatmaps: Tensor, kernel: int = 3) -> Tensor:
    """Heatmaps [B, C, h, w], 0 where a neighbor within the kernel is larger."""
    highest = F.max_pool2d(heatmaps, kernel, stride=1, padding=(kernel - 1) // 2)
    return heatmaps * (highest == heatmaps)
