"""Modulated deformable convolution (DCNv2) in plain torch operations.

Each tap of the kernel reads the image at its own place plus a learned offset, bilinearly, and
is scaled by a learned mask. Sources: "Deformable ConvNets v2" (arXiv 1811.11168), section 3.1;
mmcv/ops/modulated_deform_conv.py for names, layouts and the treatment of borders.

Letters: B images, C channels in, O channels out, G groups, D deform groups, K taps of the
kernel, (H, W) input size, (h, w) output size.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cupola import nn
from cupola.ops.bilinear import bilinear_corners
from cupola.registry import MODELS

Pair = int | tuple[int, int]


def _pair(value: Pair) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def tap_positions(
    offset: Tensor,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
) -> tuple[Tensor, Tensor]:
    """Rows and columns that the taps read, in pixels of the input, each [B, D, K, h, w].

    `offset` [B, D * K * 2, h, w] holds (dy, dx) per tap, deform group major, taps row by row.
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


def _sample_bags(x: Tensor, rows: Tensor, columns: Tensor, mask: Tensor) -> Tensor:
    """Masked samples [B, D, h * w, K, C / D]; one weighted sum of four table rows per tap.

    embedding_bag reads whole rows of channels, which makes it several times faster on a CPU than
    grid_sample, forward and backward, and avoids the round trip through coordinates in -1..1.
    """
    B, C, H, W = x.shape
    D, K, h, w = rows.shape[1:]
    index, weight = bilinear_corners(rows, columns, (H, W))  # [B, D, K, h, w, 4]
    table = torch.arange(B * D, device=x.device).view(B, D, 1, 1, 1, 1) * (H * W)
    index = (index + table).permute(0, 1, 3, 4, 2, 5).reshape(-1, 4)
    weight = (weight * mask[..., None]).permute(0, 1, 3, 4, 2, 5).reshape(-1, 4)
    pixels = x.reshape(B, D, C // D, H * W).transpose(2, 3).reshape(-1, C // D)
    samples = F.embedding_bag(index, pixels, mode="sum", per_sample_weights=weight.to(x.dtype))
    return samples.view(B, D, h * w, K, C // D)


def _sample_grid(x: Tensor, rows: Tensor, columns: Tensor, mask: Tensor) -> Tensor:
    """The same samples through grid_sample, which ONNX and other compilers know."""
    B, C, H, W = x.shape
    D, K, h, w = rows.shape[1:]
    grid = torch.stack(((2 * columns + 1) / W - 1, (2 * rows + 1) / H - 1), dim=-1)
    samples = F.grid_sample(
        x.reshape(B * D, C // D, H, W), grid.view(B * D, K * h, w, 2), align_corners=False
    )
    samples = samples.view(B, D, C // D, K, h * w) * mask.reshape(B, D, 1, K, h * w)
    return samples.permute(0, 1, 4, 3, 2)  # [B, D, h * w, K, C / D]


def modulated_deform_conv2d(
    x: Tensor,
    offset: Tensor,
    mask: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Pair = 1,
    padding: Pair = 0,
    dilation: Pair = 1,
    groups: int = 1,
    deform_groups: int = 1,
) -> Tensor:
    """x [B, C, H, W], offset [B, D*K*2, h, w], mask [B, D*K, h, w], weight [O, C/G, ...].

    Returns [B, O, h, w]. What lies outside the image counts as 0. Differentiable in all inputs.
    """
    B, C, _, _ = x.shape
    O, _, *kernel = weight.shape  # noqa: E741 - the letter of the file's head
    h, w = offset.shape[-2:]
    K = kernel[0] * kernel[1]
    expected = (B, deform_groups * K * 2, h, w)
    if tuple(offset.shape) != expected:
        raise ValueError(f"offset should be {expected}, got {tuple(offset.shape)}")
    rows, columns = tap_positions(
        offset, (kernel[0], kernel[1]), _pair(stride), _pair(padding), _pair(dilation)
    )
    sample = _sample_grid if torch.compiler.is_exporting() else _sample_bags
    samples = sample(x, rows, columns, mask.view(B, deform_groups, K, h, w))
    samples = samples.permute(0, 2, 3, 1, 4).reshape(B, h * w, K, groups, C // groups)
    samples = samples.permute(0, 3, 1, 2, 4).reshape(B, groups, h * w, K * (C // groups))
    filters = weight.view(groups, O // groups, C // groups, K).permute(0, 3, 2, 1)
    out = samples @ filters.reshape(groups, K * (C // groups), O // groups)  # [B, G, h * w, O / G]
    if bias is not None:
        out = out + bias.view(groups, 1, O // groups)
    laid = out.transpose(1, 2).reshape(B, h, w, O).permute(0, 3, 1, 2)
    # The layout of x is kept: channels-last costs nothing here, on the way in and on the way out.
    return laid if x.is_contiguous(memory_format=torch.channels_last) else laid.contiguous()


@MODELS.register_module()
class ModulatedDeformConv2d(nn.Module):
    """DCNv2 with offsets and masks from outside; arguments as in a convolution."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Pair,
        stride: Pair = 1,
        padding: Pair = 0,
        dilation: Pair = 1,
        groups: int = 1,
        deform_groups: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = _pair(kernel_size)
        self.stride = _pair(stride)
        self.padding = _pair(padding)
        self.dilation = _pair(dilation)
        self.groups = groups
        self.deform_groups = deform_groups
        self.weight = nn.Parameter(
            torch.empty(out_channels, in_channels // groups, *self.kernel_size)
        )
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        bound = 1 / math.sqrt(in_channels * math.prod(self.kernel_size))
        nn.init.uniform_(self.weight, -bound, bound)

    def forward(self, x: Tensor, offset: Tensor, mask: Tensor) -> Tensor:
        """See modulated_deform_conv2d."""
        return modulated_deform_conv2d(
            x,
            offset,
            mask,
            self.weight,
            self.bias,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
            self.deform_groups,
        )


@MODELS.register_module(["DCNv2", "ModulatedDeformConv2dPack"])
class ModulatedDeformConv2dPack(ModulatedDeformConv2d):
    """DCNv2 that predicts its own offsets and masks with one convolution, zero at first."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        taps = self.deform_groups * math.prod(self.kernel_size)
        self.conv_offset = nn.Conv2d(
            self.in_channels,
            3 * taps,
            self.kernel_size,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
        )
        for parameter in self.conv_offset.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """x [B, C, H, W] -> [B, O, h, w]."""
        first, second, mask = self.conv_offset(x).chunk(3, dim=1)
        return super().forward(x, torch.cat((first, second), dim=1), mask.sigmoid())
