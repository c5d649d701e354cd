"""Cells of searched necks: two maps are resized and merged (NAS-FPN, arXiv 1904.07392)."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cupola import nn
from cupola.models.layers.conv_module import ConvModule

Config = Mapping[str, Any]
MERGES = ("sum", "concat", "pool")


class MergeCell(nn.Module):
    """Two maps [B, C, H, W] and [B, C, h, w] -> [B, C, *size], by default of the larger one's size.

    `merge` is their sum, their concatenation, or the second plus the first weighted by the second's
    mean ("pool"). Source: mmcv/ops/merge_cells.py; state keys out_conv, input1_conv, input2_conv.
    """

    def __init__(
        self,
        merge: str,
        out_conv: ConvModule | None,
        input1_conv: ConvModule | None = None,
        input2_conv: ConvModule | None = None,
    ) -> None:
        super().__init__()
        if merge not in MERGES:
            raise ValueError(f"merge is one of {MERGES}, got {merge!r}")
        self.merge = merge
        self.out_conv = out_conv
        self.input1_conv = input1_conv
        self.input2_conv = input2_conv

    def forward(self, first: Tensor, second: Tensor, size: Sequence[int] | None = None) -> Tensor:
        target = tuple(size or max(tuple(first.shape[2:]), tuple(second.shape[2:])))
        if self.input1_conv is not None:
            first = self.input1_conv(first)
        if self.input2_conv is not None:
            second = self.input2_conv(second)
        first, second = resize(first, target), resize(second, target)
        if self.merge == "sum":
            merged = first + second
        elif self.merge == "concat":
            merged = torch.cat((first, second), 1)
        else:
            merged = second + second.mean((2, 3), keepdim=True).sigmoid() * first
        return merged if self.out_conv is None else self.out_conv(merged)


def resize(x: Tensor, size: tuple[int, ...]) -> Tensor:
    """x [B, C, H, W] in this size: nearest if it is larger, else maxima of padded windows."""
    given = tuple(x.shape[2:])
    if given == size:
        return x
    if given < size:
        return F.interpolate(x, size=size, mode="nearest")
    if any(have % want for have, want in zip(given, size, strict=True)):
        rows, columns = (
            math.ceil(have / want) * want - have for have, want in zip(given, size, strict=True)
        )
        x = F.pad(x, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))
    return F.max_pool2d(x, (x.shape[2] // size[0], x.shape[3] // size[1]))
