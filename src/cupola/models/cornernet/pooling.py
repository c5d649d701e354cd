"""Corner pooling: a corner sees the sides of its box."""

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from cupola import nn
from cupola.models.layers import ConvModule

NORM: Mapping[str, Any] = {"type": "BN", "requires_grad": True}
# The axis of each direction, and whether it runs backwards.
DIRECTIONS = {"bottom": (2, False), "left": (3, True), "right": (3, False), "top": (2, True)}


def corner_pool(x: Tensor, direction: str) -> Tensor:
    """The largest value so far in that direction: [B, C, h, w] -> [B, C, h, w].

    "top" begins at the bottom, "left" at the right side. Source: mmcv/ops/corner_pool.py.
    """
    axis, backwards = DIRECTIONS[direction]
    if not backwards:
        return x.cummax(axis).values
    return x.flip(axis).cummax(axis).values.flip(axis)


class BiCornerPool(nn.Module):
    """The sum of pooling in two directions, between convolutions, and a shortcut.

    x [B, in_channels, h, w] -> [B, out_channels, h, w].
    Source: mmdet/models/dense_heads/corner_head.py.
    """

    def __init__(
        self,
        in_channels: int,
        directions: tuple[str, str],
        feat_channels: int = 128,
        out_channels: int = 128,
        norm_cfg: Mapping[str, Any] = NORM,
    ) -> None:
        super().__init__()
        self.directions = directions
        common: dict[str, Any] = {"norm_cfg": norm_cfg}
        self.direction1_conv = ConvModule(in_channels, feat_channels, 3, padding=1, **common)
        self.direction2_conv = ConvModule(in_channels, feat_channels, 3, padding=1, **common)
        plain: dict[str, Any] = {"act_cfg": None, **common}
        self.aftpool_conv = ConvModule(feat_channels, out_channels, 3, padding=1, **plain)
        self.conv1 = ConvModule(in_channels, out_channels, 1, **plain)
        self.conv2 = ConvModule(in_channels, out_channels, 3, padding=1, **common)

    def forward(self, x: Tensor) -> Tensor:
        first = corner_pool(self.direction1_conv(x), self.directions[0])
        second = corner_pool(self.direction2_conv(x), self.directions[1])
        found: Tensor = self.conv2(F.relu(self.aftpool_conv(first + second) + self.conv1(x)))
        return found
