"""Convolution, norm and activation as one module, and its depthwise separable form."""

from collections.abc import Mapping, Sequence
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
STEPS = ("conv", "norm", "act")


@MODELS.register_module()
class ConvModule(nn.Module):
    """Convolution, norm, activation; a None config omits that step.

    x [B, in_channels, H, W] -> [B, out_channels, H', W']. By default the convolution has a bias
    only if there is no norm. `order` is that of the three steps, and `inplace` is an option of the
    activation (source: mmcv/cnn/bricks/conv_module.py; state keys conv, and bn, gn, ... by the type
    of the norm).
    """

    plugin_name = "conv_block"

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        groups: int = 1,
        *,
        conv_cfg: Mapping[str, Any] | None = None,
        norm_cfg: Mapping[str, Any] | None = None,
        act_cfg: Mapping[str, Any] | None = RELU,
        bias: bool | str | None = "auto",
        inplace: bool = True,
        order: Sequence[str] = STEPS,
        init_cfg: Any = None,
    ) -> None:
        super().__init__()
        if sorted(order) != sorted(STEPS):
            raise ValueError(f"order is one of {STEPS}, got {tuple(order)}")
        self.init_cfg = init_cfg
        self.order = tuple(order)
        self.conv = build_conv(
            conv_cfg,
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=groups,
            bias=norm_cfg is None if bias in (None, "auto") else bool(bias),
        )
        self.norm_name = norm_name(norm_cfg) if norm_cfg else None
        if norm_cfg and self.norm_name:
            before = self.order.index("norm") < self.order.index("conv")
            norm = build_norm(norm_cfg, in_channels if before else out_channels)
            self.add_module(self.norm_name, norm)
        if act_cfg and not inplace:
            act_cfg = {**act_cfg, "inplace": False}
        self.activate = build_activation(act_cfg) if act_cfg else None

    def forward(self, x: Tensor) -> Tensor:
        for step in self.order:
            if step == "conv":
                x = self.conv(x)
            elif step == "norm" and self.norm_name is not None:
                x = getattr(self, self.norm_name)(x)
            elif step == "act" and self.activate is not None:
                x = self.activate(x)
        return x


@MODELS.register_module()
class DepthwiseSeparableConvModule(nn.Module):
    """A convolution of each channel by itself, then a 1x1 convolution (arXiv 1704.04861).

    The dw_ and pw_ settings are those of the first and the second, where they differ from norm_cfg
    and act_cfg. Source: mmcv/cnn/bricks/depthwise_separable_conv_module.py.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        norm_cfg: Mapping[str, Any] | None = None,
        act_cfg: Mapping[str, Any] | None = RELU,
        dw_norm_cfg: Mapping[str, Any] | str | None = "default",
        dw_act_cfg: Mapping[str, Any] | str | None = "default",
        pw_norm_cfg: Mapping[str, Any] | str | None = "default",
        pw_act_cfg: Mapping[str, Any] | str | None = "default",
        **settings: Any,
    ) -> None:
        super().__init__()
        self.depthwise_conv = ConvModule(
            in_channels,
            in_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            in_channels,
            norm_cfg=norm_cfg if isinstance(dw_norm_cfg, str) else dw_norm_cfg,
            act_cfg=act_cfg if isinstance(dw_act_cfg, str) else dw_act_cfg,
            **settings,
        )
        self.pointwise_conv = ConvModule(
            in_channels,
            out_channels,
            1,
            norm_cfg=norm_cfg if isinstance(pw_norm_cfg, str) else pw_norm_cfg,
            act_cfg=act_cfg if isinstance(pw_act_cfg, str) else pw_act_cfg,
            **settings,
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.pointwise_conv(self.depthwise_conv(x))
