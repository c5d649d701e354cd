"""FeatureAdaption: features sampled as the shape of a cell's anchor says."""

import torch.nn.functional as F
from torch import Tensor

from cupola import nn
from cupola.models.layers.deform_conv import DeformConv2d


class FeatureAdaption(nn.Module):
    """x [B, in_channels, h, w], shapes [B, 2, h, w] -> [B, out_channels, h, w].

    Shapes get no gradient from it. Source: paper, section 3.4; mmdet's guided_anchor_head.py.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int = 3, deform_groups: int = 4
    ) -> None:
        super().__init__()
        override = {"type": "Normal", "name": "conv_adaption", "std": 0.01}
        self.init_cfg = {"type": "Normal", "layer": "Conv2d", "std": 0.1, "override": override}
        offsets = deform_groups * 2 * kernel_size**2
        self.conv_offset = nn.Conv2d(2, offsets, 1, bias=False)
        self.conv_adaption = DeformConv2d(
            in_channels,
            out_channels,
            kernel_size,
            padding=(kernel_size - 1) // 2,
            deform_groups=deform_groups,
        )

    def forward(self, x: Tensor, shapes: Tensor) -> Tensor:
        return F.relu(self.conv_adaption(x, self.conv_offset(shapes.detach())))
