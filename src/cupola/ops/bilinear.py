"""Bilinear interpolation as a weighted sum of four pixels."""

import torch
from torch import Tensor


def bilinear_corners(rows: Tensor, columns: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The four pixels around each location in a map (H, W): index and weight, each [..., 4].

    rows and columns [...] are in pixels, 0 at the center of the first. Indices are row-major in
    (H, W); pixels outside the map have weight 0. Weights are differentiable in rows and columns.
    """
    height, width = size
    top, left = rows.floor(), columns.floor()
    index, weight = [], []
    for row, row_weight in ((top, top + 1 - rows), (top + 1, rows - top)):
        row_weight = row_weight * ((row >= 0) & (row < height))
        start = row.clamp(0, height - 1).long() * width
        for column, column_weight in ((left, left + 1 - columns), (left + 1, columns - left)):
            inside = (column >= 0) & (column < width)
            index.append(start + column.clamp(0, width - 1).long())
            weight.append(row_weight * column_weight * inside)
    return torch.stack(index, dim=-1), torch.stack(weight, dim=-1)
