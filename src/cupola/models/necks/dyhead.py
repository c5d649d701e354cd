"""Dynamic head (arXiv 2106.08322): attention over levels, places and tasks."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cupola import nn
from cupola.models.layers import ModulatedDeformConv2d, build_norm
from cupola.models.layers.dynamic_relu import DyReLU
from cupola.registry import MODELS
from cupola.registry.budget import reserve

GROUP_NORM = {"type": "GN", "num_groups": 16, "requires_grad": True}
OFFSETS, MASKS = 18, 9  # of a 3x3 kernel


class NormedDeformConv2d(nn.Module):
    """DCNv2 with group norm. State keys conv, norm."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.stride = stride
        self.conv = ModulatedDeformConv2d(
            in_channels, out_channels, 3, stride=stride, padding=1, bias=False
        )
        self.norm = build_norm(GROUP_NORM, out_channels)

    def forward(self, x: Tensor, offsets: Tensor, masks: Tensor) -> Tensor:
        """x [B, C, H, W] -> [B, O, h, w].

        The offsets and masks are those of another level and may be larger than the output. As in
        the original, whose kernel reads them as if they had its size, the first numbers are taken.
        """
        size = tuple((side - 1) // self.stride + 1 for side in x.shape[2:])
        return self.norm(self.conv(x, read_as(offsets, size), read_as(masks, size)))


def read_as(x: Tensor, size: tuple[int, ...]) -> Tensor:
    """The first numbers of [B, C, H, W] as [B, C, *size]."""
    if tuple(x.shape[2:]) == size:
        return x
    C = x.shape[1]
    return torch.unflatten(x.flatten(1)[:, : C * size[0] * size[1]], 1, (C, *size))


class DyHeadBlock(nn.Module):
    """Maps of all levels -> maps of the same shapes, each from itself and its neighbors."""

    def __init__(self, in_channels: int, out_channels: int, zero_init_offset: bool) -> None:
        super().__init__()
        self.spatial_conv_high = NormedDeformConv2d(in_channels, out_channels)
        self.spatial_conv_mid = NormedDeformConv2d(in_channels, out_channels)
        self.spatial_conv_low = NormedDeformConv2d(in_channels, out_channels, stride=2)
        self.spatial_conv_offset = nn.Conv2d(in_channels, OFFSETS + MASKS, 3, padding=1)
        self.scale_attn_module = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(out_channels, 1, 1),
            nn.ReLU(inplace=True),
            nn.Hardsigmoid(),
        )
        self.task_attn_module = DyReLU(out_channels)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        if zero_init_offset:
            nn.init.zeros_(self.spatial_conv_offset.weight)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        outs = []
        for i, x in enumerate(maps):
            offsets, masks = torch.split(self.spatial_conv_offset(x), [OFFSETS, MASKS], 1)
            masks = masks.sigmoid()
            parts = [self.spatial_conv_mid(x, offsets, masks)]
            if i > 0:
                parts.append(self.spatial_conv_low(maps[i - 1], offsets, masks))
            if i < len(maps) - 1:
                coarse = self.spatial_conv_high(maps[i + 1], offsets, masks)
                parts.append(
                    F.interpolate(coarse, x.shape[2:], mode="bilinear", align_corners=True)
                )
            weighted = [part * self.scale_attn_module(part) for part in parts]
            mean = sum(weighted[1:], weighted[0]) / len(weighted)
            outs.append(self.task_attn_module(mean))
        return outs


@MODELS.register_module()
class DyHead(nn.Module):
    """Maps [B, in_channels, H_i, W_i] -> [B, out_channels, H_i, W_i], through `num_blocks` blocks.

    Source: mmdet/models/necks/dyhead.py.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        num_blocks: int = 6,
        zero_init_offset: bool = True,
        init_cfg: Any = None,
    ) -> None:
        super().__init__()
        reserve(num_blocks)
        self.init_cfg = init_cfg
        self.dyhead_blocks = nn.Sequential(
            *(
                DyHeadBlock(out_channels if i else in_channels, out_channels, zero_init_offset)
                for i in range(num_blocks)
            )
        )

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return tuple(self.dyhead_blocks(list(inputs)))
