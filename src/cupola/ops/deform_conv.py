"""Deformable convolution (DCN and DCNv2) in plain torch operations.

Each tap of the kernel reads the image at its own position plus a learned offset, bilinearly; in
version 2 the value is scaled by a learned mask. Sources: "Deformable Convolutional Networks" (arXiv
1703.06211), section 2.1; "Deformable ConvNets v2" (arXiv 1811.11168), section 3.1;
mmcv/ops/modulated_deform_conv.py for the layouts and the treatment of borders.

Letters: B images, C channels in, O channels out, G groups, D deform groups, K taps of the
kernel, (H, W) input size, (h, w) output size.
"""

import torch
from torch import Tensor

from cupola.ops.bilinear import bilinear_corners, weighted_rows

IntPair = int | tuple[int, int]


def pair(value: IntPair) -> tuple[int, int]:
    """One number for both axes, or one for each."""
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def deform_conv2d(
    x: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: IntPair = 1,
    padding: IntPair = 0,
    dilation: IntPair = 1,
    groups: int = 1,
    deform_groups: int = 1,
    mask: Tensor | None = None,
) -> Tensor:
    """x [B, C, H, W], offset [B, D * K * 2, h, w], weight [O, C / G, ...] -> [B, O, h, w].

    `mask` [B, D * K, h, w] makes it version 2. Pixels outside the image count as 0. Differentiable
    in all inputs; the memory format of x is kept.
    """
    B, C, _, _ = x.shape
    O, _, kernel_height, kernel_width = weight.shape  # noqa: E741 - as in the file's docstring
    h, w = offset.shape[-2:]
    K = kernel_height * kernel_width
    expected = (B, deform_groups * K * 2, h, w)
    if tuple(offset.shape) != expected:
        raise ValueError(f"offset should be {expected}, got {tuple(offset.shape)}")
    rows, columns = tap_positions(
        offset, (kernel_height, kernel_width), pair(stride), pair(padding), pair(dilation)
    )
    if mask is not None:
        mask = mask.view(B, deform_groups, K, h, w)
    samples = _sample(x, rows, columns, mask)
    samples = samples.permute(0, 2, 3, 1, 4).reshape(B, h * w, K, groups, C // groups)
    samples = samples.permute(0, 3, 1, 2, 4).reshape(B, groups, h * w, K * (C // groups))
    filters = weight.permute(0, 2, 3, 1).reshape(groups, O // groups, K * (C // groups))
    out = samples @ filters.transpose(1, 2)  # [B, G, h * w, O / G]
    if bias is not None:
        out = out + bias.view(groups, 1, O // groups)
    result = out.transpose(1, 2).reshape(B, h, w, O).permute(0, 3, 1, 2)  # channels-last
    channels_last = x.is_contiguous(memory_format=torch.channels_last)
    return result if channels_last else result.contiguous()


def tap_positions(
    offset: Tensor,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
) -> tuple[Tensor, Tensor]:
    """Rows and columns that the taps read, in pixels of the input, each [B, D, K, h, w].

    `offset` [B, D * K * 2, h, w] holds (dy, dx) per tap; deform groups vary slowest, taps follow
    row by row.
    """
    B, _, h, w = offset.shape
    K = kernel[0] * kernel[1]
    shift = offset.view(B, -1, K, 2, h, w)
    grid = [
        torch.arange(size, device=offset.device, dtype=offset.dtype) for size in (*kernel, h, w)
    ]
    dy = (grid[0] * dilation[0] - padding[0]).repeat_interleave(kernel[1]).view(K, 1, 1)
    dx = (grid[1] * dilation[1] - padding[1]).repeat(kernel[0]).view(K, 1, 1)
    rows = shift[:, :, :, 0] + (grid[2] * stride[0]).view(1, h, 1) + dy
    columns = shift[:, :, :, 1] + (grid[3] * stride[1]).view(1, 1, w) + dx
    return rows, columns


def _sample(x: Tensor, rows: Tensor, columns: Tensor, mask: Tensor | None) -> Tensor:
    """Masked samples [B, D, h * w, K, C / D]."""
    B, C, H, W = x.shape
    D, K, h, w = rows.shape[1:]
    index, weight = bilinear_corners(rows, columns, (H, W))  # [B, D, K, h, w, 4]
    if mask is not None:
        weight = weight * mask[..., None]
    start = torch.arange(B * D, device=x.device).view(B, D, 1, 1, 1, 1) * (H * W)
    index = (index + start).permute(0, 1, 3, 4, 2, 5).reshape(-1, 4)
    weight = weight.permute(0, 1, 3, 4, 2, 5).reshape(-1, 4)
    pixels = x.reshape(B, D, C // D, H * W).transpose(2, 3).reshape(-1, C // D)
    return weighted_rows(pixels, index, weight).view(B, D, h * w, K, C // D)
