"""Deformable convolutions by mmcv's names; cupola.ops.deform_conv computes them."""

import math
from typing import Any

import torch
from torch import Tensor

from cupola import nn
from cupola.nn.meta import parameter_device
from cupola.ops.deform_conv import IntPair, deform_conv2d, pair
from cupola.registry import MODELS


@MODELS.register_module()
class DeformConv2d(nn.Module):
    """DCN (version 1) whose offsets are passed in; arguments as in a convolution."""

    own_initialization = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: IntPair,
        stride: IntPair = 1,
        padding: IntPair = 0,
        dilation: IntPair = 1,
        groups: int = 1,
        deform_groups: int = 1,
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = pair(kernel_size)
        self.stride = pair(stride)
        self.padding = pair(padding)
        self.dilation = pair(dilation)
        self.groups = groups
        self.deform_groups = deform_groups
        shape = (out_channels, in_channels // groups, *self.kernel_size)
        self.weight = nn.Parameter(torch.empty(shape, device=parameter_device(None)))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        bound = 1 / math.sqrt(in_channels * math.prod(self.kernel_size))
        nn.init.uniform_(self.weight, -bound, bound)

    def forward(self, x: Tensor, offset: Tensor, mask: Tensor | None = None) -> Tensor:
        """See deform_conv2d."""
        return deform_conv2d(
            x,
            offset,
            self.weight,
            self.bias,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
            self.deform_groups,
            mask=mask,
        )

    def offset_conv(self, numbers: int) -> nn.Conv2d:
        """A convolution that predicts `numbers` per tap, initialized to zero."""
        conv = nn.Conv2d(
            self.in_channels,
            numbers * self.deform_groups * math.prod(self.kernel_size),
            self.kernel_size,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
        )
        for parameter in conv.parameters():
            nn.init.zeros_(parameter)
        return conv


@MODELS.register_module()
class ModulatedDeformConv2d(DeformConv2d):
    """DCNv2 whose offsets and masks are passed in."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"bias": True, **kwargs})


@MODELS.register_module(["DCN", "DeformConv2dPack"])
class DeformConv2dPack(DeformConv2d):
    """DCN that predicts its own offsets."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.conv_offset = self.offset_conv(2)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """x [B, C, H, W] -> [B, O, h, w]."""
        return super().forward(x, self.conv_offset(x))


@MODELS.register_module(["DCNv2", "ModulatedDeformConv2dPack"])
class ModulatedDeformConv2dPack(ModulatedDeformConv2d):
    """DCNv2 that predicts its own offsets and masks."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.conv_offset = self.offset_conv(3)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """x [B, C, H, W] -> [B, O, h, w]."""
        first, second, mask = self.conv_offset(x).chunk(3, dim=1)
        return super().forward(x, torch.cat((first, second), dim=1), mask.sigmoid())
