"""The neck of CenterNet (arXiv 1904.07850): convolutions and transposed convolutions in turns."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cupola import nn
from cupola.models.layers import ConvModule
from cupola.registry import MODELS

NORM = {"type": "BN"}


@MODELS.register_module()
class CTResNetNeck(nn.Module):
    """Maps of a backbone -> the last one [B, in_channels, H, W] upsampled, as a tuple of one map.

    Each pair of layers doubles its size; their convolutions are DCNv2 if `use_dcn`. MMDetection 2.x
    spells `in_channels` as in_channel. Source: mmdet/models/necks/ct_resnet_neck.py.
    """

    def __init__(
        self,
        in_channels: int | None = None,
        num_deconv_filters: Sequence[int] = (),
        num_deconv_kernels: Sequence[int] = (),
        use_dcn: bool = True,
        in_channel: int | None = None,
        init_cfg: Any = None,
    ) -> None:
        super().__init__()
        width = in_channels or in_channel
        if not width or not len(num_deconv_filters) == len(num_deconv_kernels) > 0:
            raise ValueError(
                "CTResNetNeck needs in_channels, and num_deconv_filters and num_deconv_kernels of "
                "the same length"
            )
        self.init_cfg = init_cfg
        conv_cfg = {"type": "DCNv2"} if use_dcn else None
        layers = []
        for channels, kernel in zip(num_deconv_filters, num_deconv_kernels, strict=True):
            conv = ConvModule(width, channels, 3, padding=1, conv_cfg=conv_cfg, norm_cfg=NORM)
            up = ConvModule(
                channels, channels, kernel, 2, padding=1,
                conv_cfg={"type": "deconv"}, norm_cfg=NORM,
            )  # fmt: skip
            _fill(up.conv, _bilinear(kernel))
            layers += [conv, up]
            width = channels
        self.deconv_layers = nn.Sequential(*layers)

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor]:
        return (self.deconv_layers(inputs[-1]),)


def _fill(conv: Any, kernel: Tensor) -> None:
    """Sets the kernels of the first output channel, as the original does."""
    with torch.no_grad():
        conv.weight[:, 0] = kernel


def _bilinear(size: int) -> Tensor:
    """The kernel of bilinear upsampling: [size, size]."""
    half = math.ceil(size / 2)
    center = (2 * half - 1 - half % 2) / (2.0 * half)
    line = 1 - (torch.arange(size) / half - center).abs()
    return line[:, None] * line
