"""Inverted residual blocks of MobileNetV2 (arXiv 1801.04381), with squeeze-and-excitation."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from cupola import nn
from cupola.models.layers.conv_module import ConvModule

Config = Mapping[str, Any]
SIGMOID: Config = {"type": "Sigmoid"}


def make_divisible(value: float, divisor: int = 8) -> int:
    """The nearest multiple of `divisor` that is not more than 10 % below `value`."""
    nearest = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return nearest if nearest >= 0.9 * value else nearest + divisor


class SqueezeExcitation(nn.Module):
    """x [B, C, H, W] times a weight of each channel, from the mean of the map (arXiv 1709.01507).

    State keys conv1, conv2 (source: mmdet/models/layers/se_layer.py).
    """

    def __init__(
        self, channels: int, hidden: int, act_cfg: Config, gate_cfg: Config = SIGMOID
    ) -> None:
        super().__init__()
        self.conv1 = ConvModule(channels, hidden, 1, act_cfg=act_cfg)
        self.conv2 = ConvModule(hidden, channels, 1, act_cfg=gate_cfg)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.conv2(self.conv1(x.mean((2, 3), keepdim=True)))


class InvertedResidual(nn.Module):
    """1x1 convolution to `mid_channels`, depthwise convolution, 1x1 convolution, and a shortcut.

    x [B, in_channels, H, W] -> [B, out_channels, H / stride, W / stride]; the shortcut is there
    where the shapes agree. Without `expand` the first convolution is left out.
    Source: mmdet/models/layers/inverted_residual.py.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        mid_channels: int,
        kernel_size: int = 3,
        stride: int = 1,
        *,
        expand: bool = True,
        squeeze: nn.Module | None = None,
        act_cfg: Config,
        drop_path: float = 0.0,
        **cfgs: Any,
    ) -> None:
        super().__init__()
        self.shortcut = stride == 1 and in_channels == out_channels
        self.drop_path = nn.DropPath(drop_path) if drop_path else None
        self.expand_conv = None
        if expand:
            self.expand_conv = ConvModule(in_channels, mid_channels, 1, act_cfg=act_cfg, **cfgs)
        self.depthwise_conv = ConvModule(
            mid_channels, mid_channels, kernel_size, stride,
            padding=kernel_size // 2, groups=mid_channels, act_cfg=act_cfg, **cfgs,
        )  # fmt: skip
        self.se = squeeze
        self.linear_conv = ConvModule(mid_channels, out_channels, 1, act_cfg=None, **cfgs)

    def forward(self, x: Tensor) -> Tensor:
        out = x if self.expand_conv is None else self.expand_conv(x)
        out = self.depthwise_conv(out)
        if self.se is not None:
            out = self.se(out)
        out = self.linear_conv(out)
        if not self.shortcut:
            return out
        return x + (out if self.drop_path is None else self.drop_path(out))
