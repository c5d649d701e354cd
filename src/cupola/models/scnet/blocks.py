"""Residual blocks without a last activation, with or without norms."""

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from cupola import nn
from cupola.models.layers import build_conv
from cupola.models.layers.building import add_norm
from cupola.registry.budget import reserve

Config = Mapping[str, Any]


class SimplifiedBasicBlock(nn.Module):
    """x [B, channels, h, w] -> x + two 3x3 convolutions.

    Source: mmdet/models/layers/res_layer.py.
    """

    def __init__(
        self, channels: int, conv_cfg: Config | None = None, norm_cfg: Config | None = None
    ) -> None:
        super().__init__()
        settings: dict[str, Any] = {"padding": 1, "bias": norm_cfg is None}
        self.norms: list[str] = []
        for i in (1, 2):
            self.add_module(f"conv{i}", build_conv(conv_cfg, channels, channels, 3, **settings))
            if norm_cfg is not None:
                self.norms.append(add_norm(self, norm_cfg, channels, i))

    def forward(self, x: Tensor) -> Tensor:
        out = x
        for i in (0, 1):
            out = getattr(self, f"conv{i + 1}")(F.relu(out) if i else out)
            if self.norms:
                out = getattr(self, self.norms[i])(out)
        return x + out


def simplified_blocks(
    convolutions: int,
    in_channels: int,
    channels: int,
    conv_cfg: Config | None = None,
    norm_cfg: Config | None = None,
) -> nn.ModuleList:
    """Half as many blocks as convolutions."""
    if in_channels != channels:
        raise ValueError(f"residual blocks keep their channels, got {in_channels} and {channels}")
    reserve(convolutions)
    return nn.ModuleList(
        SimplifiedBasicBlock(channels, conv_cfg, norm_cfg) for _ in range(convolutions // 2)
    )
