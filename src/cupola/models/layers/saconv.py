"""Switchable atrous convolution of DetectoRS (arXiv 2006.02334, section 4)."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cupola import nn
from cupola.models.layers.conv_ws import ConvAWS2d
from cupola.ops.deform_conv import deform_conv2d
from cupola.registry import MODELS

TAPS = 18  # offsets of a 3x3 kernel


@MODELS.register_module(["SAC", "SAConv2d"])
class SAConv2d(ConvAWS2d):
    """A convolution with two dilations, one three times the other, mixed by a switch of each cell.

    x [B, C, H, W] -> [B, O, h, w]. The mean of the map is added before and after. With `use_deform`
    both are deformable. A bias is unused, as in the original (source: mmcv/ops/saconv.py).
    """

    def __init__(self, *args: Any, use_deform: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        stride = self.stride[0]
        C, out = self.in_channels, self.out_channels
        self.switch = _constant(nn.Conv2d(C, 1, 1, stride), bias=1.0)
        self.weight_diff = nn.Parameter(torch.zeros_like(self.weight))
        self.pre_context = _constant(nn.Conv2d(C, C, 1))
        self.post_context = _constant(nn.Conv2d(out, out, 1))
        self.offset_s = self.offset_l = None
        if use_deform:
            self.offset_s = _constant(nn.Conv2d(C, TAPS, 3, stride, padding=1))
            self.offset_l = _constant(nn.Conv2d(C, TAPS, 3, stride, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.pre_context(x.mean((2, 3), keepdim=True))
        near = F.avg_pool2d(F.pad(x, (2, 2, 2, 2), mode="reflect"), 5, stride=1)
        switch = self.switch(near)
        weight = self.standardized()
        small = self._convolve(x, weight, near, self.offset_s, 1)
        large = self._convolve(x, weight + self.weight_diff, near, self.offset_l, 3)
        out = switch * small + (1 - switch) * large
        return out + self.post_context(out.mean((2, 3), keepdim=True))

    def _convolve(
        self, x: Tensor, weight: Tensor, near: Tensor, offsets: nn.Module | None, factor: int
    ) -> Tensor:
        stride = (self.stride[0], self.stride[1])
        padding = (factor * int(self.padding[0]), factor * int(self.padding[1]))
        dilation = (factor * self.dilation[0], factor * self.dilation[1])
        if offsets is None:
            return F.conv2d(x, weight, None, stride, padding, dilation, self.groups)
        return deform_conv2d(
            x, offsets(near), weight, None, stride, padding, dilation, self.groups, 1
        )


def _constant(conv: nn.Conv2d, bias: float = 0.0) -> nn.Conv2d:
    nn.init.zeros_(conv.weight)
    if conv.bias is not None:
        nn.init.constant_(conv.bias, bias)
    return conv
