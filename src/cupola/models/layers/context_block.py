"""Global context block of GCNet (arXiv 1904.11492)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from cupola import nn
from cupola.registry import MODELS


@MODELS.register_module()
class ContextBlock(nn.Module):
    """Adds to every cell, or multiplies it by, a transformation of the map's context.

    The context [B, C, 1, 1] is a mean of all cells, weighted by attention ("att") or plain ("avg").
    x [B, C, H, W] -> the same shape (section 3.3; source: mmcv/cnn/bricks/context_block.py).
    """

    plugin_name = "context_block"
    own_initialization = True

    def __init__(
        self,
        in_channels: int,
        ratio: float,
        pooling_type: str = "att",
        fusion_types: Sequence[str] = ("channel_add",),
    ) -> None:
        super().__init__()
        if pooling_type not in ("att", "avg"):
            raise ValueError(f"pooling_type is 'att' or 'avg', got {pooling_type!r}")
        if not fusion_types or set(fusion_types) - {"channel_add", "channel_mul"}:
            raise ValueError(f"fusion_types are channel_add and channel_mul, got {fusion_types}")
        width = int(in_channels * ratio)
        self.conv_mask = nn.Conv2d(in_channels, 1, 1) if pooling_type == "att" else None
        if self.conv_mask is not None:
            nn.init.kaiming_normal_(self.conv_mask.weight, mode="fan_in", nonlinearity="relu")
        self.channel_add_conv = self.channel_mul_conv = None
        if "channel_add" in fusion_types:
            self.channel_add_conv = _transformation(in_channels, width)
        if "channel_mul" in fusion_types:
            self.channel_mul_conv = _transformation(in_channels, width)

    def forward(self, x: Tensor) -> Tensor:
        context = self._context(x)
        if self.channel_mul_conv is not None:
            x = x * self.channel_mul_conv(context).sigmoid()
        if self.channel_add_conv is not None:
            x = x + self.channel_add_conv(context)
        return x

    def _context(self, x: Tensor) -> Tensor:
        if self.conv_mask is None:
            return x.mean((2, 3), keepdim=True)
        weights = self.conv_mask(x).flatten(2).softmax(-1)  # [B, 1, H * W]
        context = torch.matmul(x.flatten(2), weights.transpose(1, 2))  # [B, C, 1]
        return context.unsqueeze(-1)


def _transformation(channels: int, width: int) -> nn.Sequential:
    last = nn.Conv2d(width, channels, 1)
    nn.init.zeros_(last.weight)
    if last.bias is not None:
        nn.init.zeros_(last.bias)
    return nn.Sequential(
        nn.Conv2d(channels, width, 1), nn.LayerNorm([width, 1, 1]), nn.ReLU(inplace=True), last
    )
