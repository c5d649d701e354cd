"""Weighted sums of image features at the projections of points in space.

Letters: B samples, N cameras, Q queries, C channels, L levels, P points of a query, G groups of
channels, S cells of all levels, M points that are in an image.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from cupola.ops.bilinear import bilinear_corners, weighted_rows
from cupola.ops.deform_attn import ms_deform_attn

Shapes = Sequence[tuple[int, int]]

MARGIN = 0.5  # of an image: bilinear interpolation reads at most half a cell beyond the border


def flatten_levels(levels: Sequence[Tensor]) -> Tensor:
    """Maps [B, N, C, h_l, w_l] -> all cells of every image [B * N, S, C]."""
    return torch.cat([level.flatten(0, 1).flatten(2).transpose(1, 2) for level in levels], 1)


def level_shapes(levels: Sequence[Tensor]) -> Shapes:
    """The (h_l, w_l) of maps."""
    return [(level.shape[-2], level.shape[-1]) for level in levels]


def aggregate(cells: Tensor, shapes: Shapes, uv: Tensor, weights: Tensor, batch: int) -> Tensor:
    """cells [B * N, S, C], uv [B * N, Q, P, 2], weights [B * N, Q, G, L, P] -> [B, Q, C].

    uv are fractions of the width and height of an image; outside of it the features are 0. What is
    exported or compiled reads all points.
    """
    dense = torch.compiler.is_exporting() or torch.compiler.is_compiling()
    return (_sample_all if dense else _sample_visible)(cells, shapes, uv, weights, batch)


def _sample_all(cells: Tensor, shapes: Shapes, uv: Tensor, weights: Tensor, batch: int) -> Tensor:
    groups, levels = weights.shape[2:4]
    places = uv[:, :, None, None].expand(-1, -1, groups, levels, -1, -1)
    values = torch.unflatten(cells, -1, (groups, -1))
    sampled = ms_deform_attn(values, shapes, places, weights)  # [B * N, Q, C]
    return torch.unflatten(sampled, 0, (batch, -1)).sum(1)


def _sample_visible(
    cells: Tensor, shapes: Shapes, uv: Tensor, weights: Tensor, batch: int
) -> Tensor:
    """The same, reading only points that are in an image, about one in five.

    All groups read a point at the same place, so a row has all channels.
    """
    images, S, C = cells.shape
    Q, groups = weights.shape[1:3]
    near = ((uv > -MARGIN) & (uv < 1 + MARGIN)).all(-1)
    image, query, point = near.nonzero(as_tuple=True)  # M points each
    x, y = uv[image, query, point].unbind(-1)
    total, start = cells.new_zeros(batch * Q, C), 0
    rows = cells.reshape(images * S, C)
    owner = image // (images // batch) * Q + query
    for level, (height, width) in enumerate(shapes):
        index, corners = bilinear_corners(y * height - 0.5, x * width - 0.5, (height, width))
        values = weighted_rows(rows, index + (image * S + start)[:, None], corners)  # [M, C]
        share = weights[image, query, :, level, point]  # [M, G]
        values = values.view(-1, groups, C // groups) * share[..., None]
        total = total.index_add(0, owner, values.flatten(1))
        start += height * width
    return total.view(batch, Q, C)
