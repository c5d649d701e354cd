"""Dynamic ReLU (arXiv 2003.10027), as the task attention of DyHead uses it."""

import torch
from torch import Tensor

from cupola import nn
from cupola.models.layers.conv_module import ConvModule


class DyReLU(nn.Module):
    """x [B, C, H, W] -> the larger of two linear functions of each channel, of the same shape.

    Their slopes and offsets are functions of the mean of the map.
    Source: mmdet/models/layers/se_layer.py; state keys conv1, conv2.
    """

    def __init__(self, channels: int, ratio: int = 4) -> None:
        super().__init__()
        self.conv1 = ConvModule(channels, channels // ratio, 1)
        self.conv2 = ConvModule(channels // ratio, 4 * channels, 1, act_cfg={"type": "HSigmoid"})

    def forward(self, x: Tensor) -> Tensor:
        numbers = self.conv2(self.conv1(x.mean((2, 3), keepdim=True))) - 0.5
        slope, offset, other_slope, other_offset = numbers.chunk(4, 1)
        return torch.maximum(x * (2 * slope + 1) + offset, x * (2 * other_slope) + other_offset)
