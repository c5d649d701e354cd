"""CARAFE (arXiv 1905.02188): upsampling by sums over windows, weighted for each output cell.

Letters: B batch, G groups, C channels, K window cells, S cells of the output for one of the input.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def carafe(x: Tensor, weights: Tensor, kernel_size: int, groups: int, scale: int) -> Tensor:
    """x [B, C, H, W] -> [B, C, scale * H, scale * W].

    weights [B, groups * kernel_size**2 * scale**2, H, W]: of each cell of a window, row by row, for
    each of the scale**2 output cells, as torch.nn.functional.pixel_shuffle orders them. Cells
    outside of the map count as zeros (equation 3; source: mmcv/ops/carafe.py).
    """
    if kernel_size % 2 == 0:
        raise ValueError(f"carafe needs an odd kernel_size, got {kernel_size}")
    cells, outputs = kernel_size**2, scale**2
    if weights.shape[1] != groups * cells * outputs or x.shape[1] % groups:
        raise ValueError(
            f"carafe of {x.shape[1]} channels in {groups} groups needs weights with "
            f"{groups * cells * outputs} channels, got {weights.shape[1]}"
        )
    H, W = x.shape[2:]
    weights = torch.unflatten(weights, 1, (groups, cells, outputs))  # [B, G, K, S, H, W]
    padded = F.pad(x, [kernel_size // 2] * 4)
    padded = torch.unflatten(padded, 1, (groups, -1)).unsqueeze(3)  # [B, G, C / G, 1, H', W']
    total: Tensor | None = None
    for cell in range(cells):
        row, column = divmod(cell, kernel_size)
        shifted = padded[..., row : row + H, column : column + W]
        part = shifted * weights[:, :, cell].unsqueeze(2)  # [B, G, C / G, S, H, W]
        total = part if total is None else total + part
    assert total is not None
    return F.pixel_shuffle(total.flatten(1, 3), scale)
