"""Multi-scale deformable attention (Deformable DETR, arXiv 2010.04159, equation 3).

Letters: B images, S cells of all levels, M heads, D channels of a head, Q queries, L levels, P
sampling points of a head in each level.
Original: mmcv/ops/multi_scale_deform_attn.py.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from cupola.ops.bilinear import bilinear_corners, weighted_rows

NARROW = 16  # channels of a head up to which grid_sample is the faster way on a CPU


def ms_deform_attn(
    value: Tensor,
    spatial_shapes: Sequence[tuple[int, int]],
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    """value [B, S, M, D], locations [B, Q, M, L, P, 2], weights [B, Q, M, L, P] -> [B, Q, M * D].

    S holds the cells of all levels, level by level and row by row; `spatial_shapes` are their
    (height, width). Locations (x, y) are fractions of the width and height of a level; outside of
    it the value is 0. Differentiable in value, locations and weights.
    """
    B, S, M, D = value.shape
    Q, L, P = sampling_locations.shape[1], *sampling_locations.shape[3:5]
    expected = sum(height * width for height, width in spatial_shapes)
    if expected != S or len(spatial_shapes) != L:
        raise ValueError(
            f"value has {S} cells and the locations {L} levels; spatial_shapes "
            f"{[tuple(shape) for shape in spatial_shapes]} have {expected} cells"
        )
    if D <= NARROW and value.device.type == "cpu" and not torch.compiler.is_exporting():
        return _by_grid_sample(value, spatial_shapes, sampling_locations, attention_weights)
    table = value.reshape(B * S * M, D)  # row (b * S + cell) * M + m
    image = torch.arange(B, device=value.device).view(B, 1, 1, 1, 1) * S
    head = torch.arange(M, device=value.device).view(M, 1, 1)
    indices, weights, start = [], [], 0
    for level, (height, width) in enumerate(spatial_shapes):
        x, y = sampling_locations[:, :, :, level].unbind(-1)  # [B, Q, M, P]
        index, weight = bilinear_corners(y * height - 0.5, x * width - 0.5, (height, width))
        weights.append(weight * attention_weights[:, :, :, level, :, None])
        indices.append((index + (image + start)) * M + head)  # [B, Q, M, P, 4]
        start += height * width
    index = torch.stack(indices, 3).view(B * Q * M, L * P * 4)
    return weighted_rows(table, index, torch.stack(weights, 3).view_as(index)).view(B, Q, M * D)


def _by_grid_sample(
    value: Tensor,
    spatial_shapes: Sequence[tuple[int, int]],
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    """The same, level by level with heads as images: less overhead, but slow for wide heads."""
    B, _, M, D = value.shape
    Q = sampling_locations.shape[1]
    grids = (2 * sampling_locations - 1).nan_to_num(-3.0, 3.0, -3.0)  # not finite: outside
    grids = grids.transpose(1, 2).flatten(0, 1)  # [B * M, Q, L, P, 2]
    levels = torch.split(value, [height * width for height, width in spatial_shapes], 1)
    sampled = [
        F.grid_sample(
            level.permute(0, 2, 3, 1).reshape(B * M, D, *shape), grids[:, :, i], align_corners=False
        )
        for i, (level, shape) in enumerate(zip(levels, spatial_shapes, strict=True))
    ]  # each [B * M, D, Q, P]
    weights = attention_weights.transpose(1, 2).reshape(B * M, 1, Q, -1)
    out = (torch.cat(sampled, -1) * weights).sum(-1)  # [B * M, D, Q]
    return out.view(B, M * D, Q).transpose(1, 2)
