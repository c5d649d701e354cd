"""Patches of images and feature maps: embedding, and merging by 2 x 2.

Maps are channels-last here, [B, H, W, C], as vision transformers use them.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cupola import nn
from cupola.models.layers.building import build_norm
from cupola.structures import pad_to_multiple

Config = Mapping[str, Any]
LAYER_NORM: Config = {"type": "LN"}


class PatchEmbed(nn.Module):
    """x [B, in_channels, H, W] -> [B, H', W', embed_dims], one cell per patch of `patch_size`.

    Images are zero-padded at the right and bottom to whole patches, or by `padding` at all sides.
    Patches overlap where `stride` is less than their size.
    Source: mmdet/models/layers/transformer/utils.py; state keys projection, norm.
    """

    def __init__(
        self,
        in_channels: int,
        embed_dims: int,
        patch_size: int,
        norm_cfg: Config | None = None,
        stride: int | None = None,
        padding: int | None = None,
    ) -> None:
        super().__init__()
        self.multiple = patch_size if padding is None else 1
        self.projection = nn.Conv2d(
            in_channels, embed_dims, patch_size, stride or patch_size, padding=padding or 0
        )
        self.norm = build_norm(norm_cfg, embed_dims) if norm_cfg else None

    def forward(self, x: Tensor) -> Tensor:
        x = self.projection(pad_to_multiple(x, self.multiple))
        x = x.permute(0, 2, 3, 1).contiguous()  # [B, H', W', C]
        return x if self.norm is None else self.norm(x)


class PatchMerging(nn.Module):
    """x [B, H, W, C] -> [B, H / stride, W / stride, out_channels], zero-padded to even sizes.

    The values of a cell are ordered as nn.Unfold orders them, channels first and then the position
    in the window, unlike the original Swin Transformer, whose checkpoints have to be reordered.
    Source: mmdet/models/layers/transformer/utils.py; state keys norm, reduction.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 2,
        norm_cfg: Config | None = LAYER_NORM,
    ) -> None:
        super().__init__()
        self.stride = stride
        self.out_channels = out_channels
        self.norm = build_norm(norm_cfg, 4 * in_channels) if norm_cfg else None
        self.reduction = nn.Linear(4 * in_channels, out_channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.stride == 2:
            x = _windows_of_2(x)
        else:
            x = _strided_windows_of_2(x, self.stride)
        if self.norm is not None:
            x = self.norm(x)
        return self.reduction(x)


def _windows_of_2(x: Tensor) -> Tensor:
    """[B, H, W, C] -> [B, H / 2, W / 2, C * 4], channels slowest."""
    H, W = x.shape[1:3]
    if H % 2 or W % 2:
        x = F.pad(x, (0, 0, 0, W % 2, 0, H % 2))
    x = torch.unflatten(torch.unflatten(x, 2, (-1, 2)), 1, (-1, 2))  # [B, H / 2, 2, W / 2, 2, C]
    return x.permute(0, 1, 3, 5, 2, 4).flatten(3)


def _strided_windows_of_2(x: Tensor, stride: int) -> Tensor:
    """2 x 2 windows at any stride; the right and bottom are padded until every cell has one."""
    B, H, W, C = x.shape
    rows, columns = -(-H // stride), -(-W // stride)
    bottom, right = ((n - 1) * stride + 2 - side for n, side in ((rows, H), (columns, W)))
    x = F.pad(x.permute(0, 3, 1, 2), (0, max(right, 0), 0, max(bottom, 0)))
    cells = F.unfold(x, 2, stride=stride)  # [B, C * 4, rows * columns]
    return cells.transpose(1, 2).view(B, rows, columns, 4 * C)
