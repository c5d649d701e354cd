"""Values of maps at points of regions.

Letters: B images, C channels, R regions, P points, (h, w) size of a map. Points are (x, y) in 0..1
of their region. Source: mmcv/ops/point_sample.py.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from cupola import nn
from cupola.models.layers.point_sampling import values_at
from cupola.registry import MODELS


def in_image(boxes: Tensor, points: Tensor) -> Tensor:
    """Points [R, P, 2] of boxes [R, 4], xyxy -> in pixels [R, P, 2]."""
    low, high = boxes[:, None, :2], boxes[:, None, 2:]
    return low + points * (high - low)


def values_of_regions(x: Tensor, rois: Tensor, points: Tensor, stride: float) -> Tensor:
    """A map [B, C, h, w] at points [R, P, 2] of rois [R, 5], image by image -> [R, C, P]."""
    height, width = x.shape[-2:]
    places = in_image(rois[:, 1:], points) / (points.new_tensor([width, height]) * stride)
    found = [x.new_zeros(0, x.shape[1], points.shape[1])]
    for i in range(len(x)):
        mine = places[rois[:, 0] == i]  # [R_i, P, 2]
        if len(mine):
            values = values_at(x[i : i + 1], mine.flatten(0, 1)[None])[0]  # [C, R_i * P]
            found.append(values.view(len(values), *mine.shape[:2]).transpose(0, 1))
    return torch.cat(found)


def cell_centers(count: int, size: Sequence[int], like: Tensor) -> Tensor:
    """The centers of the cells of regions of a size (h, w), row by row: [count, h * w, 2]."""
    height, width = size
    places = torch.arange(height * width, device=like.device)
    return points_of(places, height, width, like).expand(count, -1, -1)


def points_of(places: Tensor, height: int, width: int, like: Tensor) -> Tensor:
    """Indices [..., P] of the cells of a map, row by row -> their centers [..., P, 2]."""
    x = ((places % width).to(like) + 0.5) / width
    y = ((places // width).to(like) + 0.5) / height
    return torch.stack((x, y), -1)


@MODELS.register_module()
class SimpleRoIAlign(nn.Module):
    """One bilinear value in the middle of every cell: x [B, C, H, W], rois [R, 5] -> [R, C, h, w].

    Rois are sorted by image.
    """

    def __init__(
        self, output_size: int | Sequence[int], spatial_scale: float = 1.0, aligned: bool = True
    ) -> None:
        super().__init__()
        if not aligned:
            raise ValueError("SimpleRoIAlign is supported with aligned=True")
        h, w = (output_size,) * 2 if isinstance(output_size, int) else output_size
        self.output_size, self.spatial_scale = (int(h), int(w)), spatial_scale

    def forward(self, x: Tensor, rois: Tensor) -> Tensor:
        points = cell_centers(len(rois), self.output_size, x)
        values = values_of_regions(x, rois, points, 1 / self.spatial_scale)
        return values.view(*values.shape[:2], *self.output_size)
