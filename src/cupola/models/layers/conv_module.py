"""ConvModule: convolution, norm, activation."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from cupola import nn
from cupola.models.layers.building import (
    build_activation,
    build_conv,
    build_norm,
    norm_name,
)
from cupola.registry import MODELS

RELU: Mapping[str, Any] = {"type": "ReLU", "inplace": True}


@MODELS.register_module()
class ConvModule(nn.Module):
    """Convolution, norm, activation; a None config omits that step.

    x [B, in_channels, H, W] -> [B, out_channels, H', W']. By default the convolution has a bias
    only if no norm follows (source: mmcv/cnn/bricks/conv_module.py; state keys conv, and bn, gn,
    ... by the type of the norm).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        *,
        conv_cfg: Mapping[str, Any] | None = None,
        norm_cfg: Mapping[str, Any] | None = None,
        act_cfg: Mapping[str, Any] | None = RELU,
        bias: bool | str | None = "auto",
        init_cfg: Any = None,
    ) -> None:
        super().__init__()
        self.init_cfg = init_cfg
        self.conv = build_conv(
            conv_cfg,
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=padding,
            bias=norm_cfg is None if bias in (None, "auto") else bool(bias),
        )
        self.norm_name = norm_name(norm_cfg) if norm_cfg else None
        if norm_cfg and self.norm_name:
            self.add_module(self.norm_name, build_norm(norm_cfg, out_channels))
        self.activate = build_activation(act_cfg) if act_cfg else None

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        if self.norm_name is not None:
            x = getattr(self, self.norm_name)(x)
        return x if self.activate is None else self.activate(x)
