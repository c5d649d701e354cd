"""The encoder of YOLOF (arXiv 2103.09460): one level, with residual blocks of growing dilation."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from cupola import nn
from cupola.models.layers import ConvModule
from cupola.registry import MODELS

NORM = {"type": "BN", "requires_grad": True}


class DilatedBlock(nn.Module):
    """x + convolutions(x): of 1x1, 3x3 with a dilation, and 1x1."""

    def __init__(self, channels: int, width: int, dilation: int) -> None:
        super().__init__()
        self.conv1 = ConvModule(channels, width, 1, norm_cfg=NORM)
        self.conv2 = ConvModule(width, width, 3, 1, dilation, dilation, norm_cfg=NORM)
        self.conv3 = ConvModule(width, channels, 1, norm_cfg=NORM)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv3(self.conv2(self.conv1(x)))


@MODELS.register_module()
class DilatedEncoder(nn.Module):
    """Maps of a backbone -> the last one [B, in_channels, H, W] as ([B, out_channels, H, W],).

    Source: mmdet/models/necks/dilated_encoder.py.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        block_mid_channels: int,
        num_residual_blocks: int,
        block_dilations: Sequence[int],
        init_cfg: Any = None,
    ) -> None:
        super().__init__()
        if len(block_dilations) < num_residual_blocks:
            raise ValueError(
                f"DilatedEncoder: {num_residual_blocks} blocks, but dilations {block_dilations}"
            )
        self.init_cfg = init_cfg
        self.lateral_conv = nn.Conv2d(in_channels, out_channels, 1)
        self.lateral_norm = nn.BatchNorm2d(out_channels)
        self.fpn_conv = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.fpn_norm = nn.BatchNorm2d(out_channels)
        self.dilated_encoder_blocks = nn.Sequential(
            *(
                DilatedBlock(out_channels, block_mid_channels, dilation)
                for dilation in block_dilations[:num_residual_blocks]
            )
        )
        for conv in (self.lateral_conv, self.fpn_conv):
            nn.init.kaiming_uniform_(conv.weight, a=1)
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)
        for module in self.dilated_encoder_blocks.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor]:
        x = self.lateral_norm(self.lateral_conv(inputs[-1]))
        x = self.fpn_norm(self.fpn_conv(x))
        return (self.dilated_encoder_blocks(x),)
