"""CARAFE with the convolutions that predict its weights (arXiv 1905.02188, section 3.2)."""

import torch
from torch import Tensor

from cupola import nn
from cupola.ops.carafe import carafe
from cupola.registry import MODELS


@MODELS.register_module(["carafe", "CARAFEPack"])
class CARAFEPack(nn.Module):
    """x [B, channels, H, W] -> [B, channels, scale_factor * H, scale_factor * W].

    Source: mmcv/ops/carafe.py; state keys channel_compressor, content_encoder.
    """

    def __init__(
        self,
        channels: int,
        scale_factor: int,
        up_kernel: int = 5,
        up_group: int = 1,
        encoder_kernel: int = 3,
        encoder_dilation: int = 1,
        compressed_channels: int = 64,
    ) -> None:
        super().__init__()
        self.scale_factor = scale_factor
        self.up_kernel = up_kernel
        self.up_group = up_group
        self.channel_compressor = nn.Conv2d(channels, compressed_channels, 1)
        self.content_encoder = nn.Conv2d(
            compressed_channels,
            up_kernel**2 * up_group * scale_factor**2,
            encoder_kernel,
            padding=(encoder_kernel - 1) * encoder_dilation // 2,
            dilation=encoder_dilation,
        )
        nn.init.xavier_uniform_(self.channel_compressor.weight)
        nn.init.normal_(self.content_encoder.weight, std=0.001)
        for conv in (self.channel_compressor, self.content_encoder):
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        weights = self.content_encoder(self.channel_compressor(x))
        shape = (self.up_group, self.up_kernel**2, self.scale_factor**2)
        weights = torch.unflatten(weights, 1, shape).softmax(2).flatten(1, 3)
        return carafe(x, weights, self.up_kernel, self.up_group, self.scale_factor)
