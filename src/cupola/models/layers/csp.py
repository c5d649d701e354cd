"""Cross stage partial layers (arXiv 1911.11929) of YOLOX and RTMDet, and their pooling layer."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cupola import nn
from cupola.models.layers.conv_module import ConvModule, DepthwiseSeparableConvModule
from cupola.registry.budget import reserve

Config = Mapping[str, Any]
BATCH_NORM: Config = {"type": "BN", "momentum": 0.03, "eps": 0.001}
SWISH: Config = {"type": "Swish"}


def conv_of(use_depthwise: bool) -> type[ConvModule] | type[DepthwiseSeparableConvModule]:
    """The class of a 3x3 convolution."""
    return DepthwiseSeparableConvModule if use_depthwise else ConvModule


class DarknetBottleneck(nn.Module):
    """A 1x1 and a 3x3 convolution, and a shortcut where `add_identity`.

    With `large_kernel` (RTMDet) a 3x3 and a separable 5x5 convolution instead.
    Sources: mmdet/models/layers/csp_layer.py, DarknetBottleneck and CSPNeXtBlock.
    """

    def __init__(
        self,
        channels: int,
        add_identity: bool,
        use_depthwise: bool,
        large_kernel: bool,
        conv_cfg: Config | None,
        **cfgs: Any,
    ) -> None:
        super().__init__()
        self.add_identity = add_identity
        self.conv1: nn.Module
        self.conv2: nn.Module
        if large_kernel:
            self.conv1 = conv_of(use_depthwise)(channels, channels, 3, padding=1, **cfgs)
            self.conv2 = DepthwiseSeparableConvModule(
                channels, channels, 5, padding=2, conv_cfg=conv_cfg, **cfgs
            )
        else:
            cfgs["conv_cfg"] = conv_cfg
            self.conv1 = ConvModule(channels, channels, 1, **cfgs)
            self.conv2 = conv_of(use_depthwise)(channels, channels, 3, padding=1, **cfgs)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, H, W]."""
        out = self.conv2(self.conv1(x))
        return out + x if self.add_identity else out


class ChannelAttention(nn.Module):
    """x [B, C, H, W] times hard-sigmoid(1x1 convolution of the mean of the map)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * F.hardsigmoid(self.fc(x.mean((2, 3), keepdim=True)))


class CSPLayer(nn.Module):
    """x [B, in_channels, H, W] -> [B, out_channels, H, W]: half of the channels skip the blocks.

    Source: mmdet/models/layers/csp_layer.py; state keys main_conv, short_conv, final_conv, blocks,
    attention.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        expand_ratio: float = 0.5,
        num_blocks: int = 1,
        add_identity: bool = True,
        use_depthwise: bool = False,
        use_cspnext_block: bool = False,
        channel_attention: bool = False,
        conv_cfg: Config | None = None,
        norm_cfg: Config = BATCH_NORM,
        act_cfg: Config = SWISH,
    ) -> None:
        super().__init__()
        reserve(num_blocks)
        cfgs: dict[str, Any] = {"conv_cfg": conv_cfg, "norm_cfg": norm_cfg, "act_cfg": act_cfg}
        width = int(out_channels * expand_ratio)
        self.main_conv = ConvModule(in_channels, width, 1, **cfgs)
        self.short_conv = ConvModule(in_channels, width, 1, **cfgs)
        self.final_conv = ConvModule(2 * width, out_channels, 1, **cfgs)
        self.blocks = nn.Sequential(
            *(
                DarknetBottleneck(width, add_identity, use_depthwise, use_cspnext_block, **cfgs)
                for _ in range(num_blocks)
            )
        )
        self.attention = ChannelAttention(2 * width) if channel_attention else None

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat((self.blocks(self.main_conv(x)), self.short_conv(x)), 1)
        return self.final_conv(x if self.attention is None else self.attention(x))


class SPPBottleneck(nn.Module):
    """Spatial pyramid pooling: a map next to its maxima in windows of several sizes.

    x [B, C, H, W] -> [B, C, H, W] (source: mmdet/models/backbones/csp_darknet.py).
    """

    def __init__(self, channels: int, kernel_sizes: Sequence[int], **cfgs: Any) -> None:
        super().__init__()
        half = channels // 2
        self.kernel_sizes = tuple(kernel_sizes)
        self.conv1 = ConvModule(channels, half, 1, **cfgs)
        self.conv2 = ConvModule(half * (len(self.kernel_sizes) + 1), channels, 1, **cfgs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        pooled = [F.max_pool2d(x, size, 1, padding=size // 2) for size in self.kernel_sizes]
        return self.conv2(torch.cat([x, *pooled], 1))
