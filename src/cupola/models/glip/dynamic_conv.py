"""GLIP's layers of dynamic convolutions over all levels, as in DyHead (arXiv 2106.08322).

Letters: B images, C channels in, O channels out.
Source: mmdet/models/dense_heads/atss_vlfusion_head.py.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from cupola import nn
from cupola.models.layers import ModulatedDeformConv2d
from cupola.models.necks.dyhead import MASKS, OFFSETS, read_as

GROUPS = 16


class NormedConv(nn.Module):
    """A 3x3 convolution, deformable or not, with group norm. State keys conv, bn."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, deformable: bool) -> None:
        super().__init__()
        kind = ModulatedDeformConv2d if deformable else nn.Conv2d
        self.stride, self.deformable = stride, deformable
        self.conv = kind(in_channels, out_channels, 3, stride=stride, padding=1)
        self.bn = nn.GroupNorm(GROUPS, out_channels)

    def forward(self, x: Tensor, offsets: Tensor | None, masks: Tensor | None) -> Tensor:
        """x [B, C, H, W] -> [B, O, h, w]; see necks/dyhead.py for offsets of another size."""
        if offsets is None or masks is None:
            return self.bn(self.conv(x))
        size = tuple((side - 1) // self.stride + 1 for side in x.shape[2:])
        return self.bn(self.conv(x, read_as(offsets, size), read_as(masks, size)))


class LinearDyReLU(nn.Module):
    """Dynamic ReLU whose two layers are linear ones. State keys fc.0, fc.2."""

    def __init__(self, channels: int, ratio: int = 4) -> None:
        super().__init__()
        self.fc = nn.Sequential(
            nn.Linear(channels, channels // ratio),
            nn.ReLU(),
            nn.Linear(channels // ratio, 4 * channels),
            nn.Hardsigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        numbers = (self.fc(x.mean((2, 3))) - 0.5)[..., None, None]
        slope, offset, other_slope, other_offset = numbers.chunk(4, 1)
        return torch.maximum(x * (2 * slope + 1) + offset, x * (2 * other_slope) + other_offset)


class DynamicConv(nn.Module):
    """Maps of all levels -> maps of the same sizes, each from itself and its neighbors.

    Unless `dynamic`, which needs as many channels in as out, it is a mean of plain convolutions.
    State keys dyconvs, attnconv, relu, offset.
    """

    def __init__(self, in_channels: int, out_channels: int, dynamic: bool) -> None:
        super().__init__()
        self.dyconvs = nn.ModuleList(
            NormedConv(in_channels, out_channels, stride, dynamic) for stride in (1, 1, 2)
        )
        self.attnconv = self.offset = None
        if dynamic:
            self.attnconv = nn.Sequential(
                nn.AdaptiveAvgPool2d(1), nn.Conv2d(in_channels, 1, 1), nn.ReLU()
            )
        self.relu = LinearDyReLU(out_channels) if dynamic else nn.ReLU()
        if dynamic:
            self.offset = nn.Conv2d(in_channels, OFFSETS + MASKS, 3, padding=1)
        for part in (self.dyconvs, self.attnconv):
            for module in part.modules() if part is not None else ():
                if isinstance(module, nn.Conv2d):
                    nn.init.normal_(module.weight, std=0.01)
                    assert module.bias is not None
                    nn.init.zeros_(module.bias)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        outs = []
        for i, x in enumerate(maps):
            offsets = masks = None
            if self.offset is not None:
                offsets, masks = torch.split(self.offset(x), [OFFSETS, MASKS], 1)
                masks = masks.sigmoid()
            parts = [self.dyconvs[1](x, offsets, masks)]
            if i > 0:
                parts.append(self.dyconvs[2](maps[i - 1], offsets, masks))
            if i < len(maps) - 1:
                coarse = self.dyconvs[0](maps[i + 1], offsets, masks)
                parts.append(
                    F.interpolate(coarse, x.shape[2:], mode="bilinear", align_corners=True)
                )
            if self.attnconv is not None:
                parts = [part * F.hardsigmoid(self.attnconv(part)) for part in parts]
            outs.append(self.relu(sum(parts[1:], parts[0]) / len(parts)))
        return outs
