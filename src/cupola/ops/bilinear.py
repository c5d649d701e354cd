"""Bilinear interpolation as a weighted sum of four pixels."""

import torch
import torch.nn.functional as F
from torch import Tensor

EXPORTED_WIDTH = 512  # numbers that an exported graph holds at once for each weighted sum


def bilinear_corners(rows: Tensor, columns: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The four pixels around each location in a map (H, W): index and weight, each [..., 4].

    rows and columns [...] are in pixels, 0 at the center of the first. Indices are row-major in
    (H, W); pixels outside the map have weight 0, as all pixels have for a location that is not
    finite. Weights are differentiable in rows and columns.
    """
    height, width = size
    top, left = rows.floor(), columns.floor()
    index, weight = [], []
    for row, row_weight in ((top, top + 1 - rows), (top + 1, rows - top)):
        inside = (row >= 0) & (row < height)
        row_weight = torch.where(inside, row_weight, 0.0)
        start = torch.where(inside, row, 0.0).long() * width
        for column, column_weight in ((left, left + 1 - columns), (left + 1, columns - left)):
            inside = (column >= 0) & (column < width)
            index.append(start + torch.where(inside, column, 0.0).long())
            weight.append(row_weight * torch.where(inside, column_weight, 0.0))
    return torch.stack(index, dim=-1), torch.stack(weight, dim=-1)


def weighted_rows(table: Tensor, index: Tensor, weight: Tensor) -> Tensor:
    """Weighted sums of rows: table [T, C], index and weight [N, K] -> [N, C].

    embedding_bag reads whole rows, which makes it several times faster on a CPU than grid_sample,
    forward and backward. Exported graphs gather and add up a few rows at a time.
    """
    weight = weight.to(table.dtype)
    if not torch.compiler.is_exporting():
        return F.embedding_bag(index, table, mode="sum", per_sample_weights=weight)
    step = max(1, EXPORTED_WIDTH // table.shape[1])
    parts = zip(torch.split(index, step, 1), torch.split(weight, step, 1), strict=True)
    return torch.stack([(table[i] * w[..., None]).sum(1) for i, w in parts]).sum(0)
