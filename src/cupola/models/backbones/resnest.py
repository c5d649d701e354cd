"""ResNeSt (arXiv 2004.08955): bottlenecks with split attention instead of a 3x3 convolution."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cupola import nn
from cupola.models.backbones.residual import BlockSettings, ResidualBlock, Stage
from cupola.models.backbones.residual_net import ResidualNet
from cupola.models.backbones.resnet import BLOCKS, blocks_of_depth, deeper, grouped_width
from cupola.models.layers import build_conv
from cupola.models.layers.building import add_norm
from cupola.models.layers.plugins import add_plugins, apply_plugins
from cupola.registry import MODELS

DEPTHS = {**deeper(BLOCKS), 200: (3, 24, 36, 3)}
MIN_ATTENTION = 32  # channels of the attention's hidden layer


class SplitAttentionConv2d(nn.Module):
    """A 3x3 convolution to `radix` maps, which are added with weights for each channel.

    x [B, C, H, W] -> the same shape, divided by the stride (section 3.1). State keys conv, bn0,
    fc1, bn1, fc2.
    """

    def __init__(
        self,
        channels: int,
        stride: int,
        dilation: int,
        groups: int,
        radix: int,
        reduction_factor: int,
        settings: BlockSettings,
    ) -> None:
        super().__init__()
        self.radix = radix
        self.groups = groups
        hidden = max(channels * radix // reduction_factor, MIN_ATTENTION)
        self.conv = build_conv(
            settings.dcn or settings.conv_cfg, channels, channels * radix, 3,
            stride=stride, padding=dilation, dilation=dilation, groups=groups * radix, bias=False,
        )  # fmt: skip
        self.first_norm = add_norm(self, settings.norm_cfg, channels * radix, 0)
        self.fc1 = nn.Conv2d(channels, hidden, 1, groups=groups)
        self.hidden_norm = add_norm(self, settings.norm_cfg, hidden, 1)
        self.fc2 = nn.Conv2d(hidden, channels * radix, 1, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(getattr(self, self.first_norm)(self.conv(x)), inplace=True)
        splits = torch.unflatten(x, 1, (self.radix, -1))  # [B, radix, C, h, w]
        context = splits.sum(1).mean((2, 3), keepdim=True)
        context = F.relu(getattr(self, self.hidden_norm)(self.fc1(context)), inplace=True)
        weights = self.fc2(context)  # [B, groups * radix * C / groups, 1, 1]
        if self.radix == 1:
            return x * weights.sigmoid()
        weights = torch.unflatten(weights, 1, (self.groups, self.radix, -1))
        weights = weights.transpose(1, 2).softmax(1).flatten(2, 3)  # [B, radix, C, 1, 1]
        return (weights * splits).sum(1)


class SplitAttentionBottleneck(ResidualBlock):
    """A bottleneck around SplitAttentionConv2d, which pools instead of striding."""

    expansion = 4

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int,
        dilation: int,
        settings: BlockSettings,
        *,
        downsample: nn.Module | None = None,
        out_channels: int | None = None,
        groups: int,
        width: int,
        radix: int,
        reduction_factor: int,
        avg_down_stride: bool,
    ) -> None:
        super().__init__()
        out_channels = out_channels or channels * self.expansion
        cfg, norm = settings.conv_cfg, settings.norm_cfg
        first, second = (1, stride) if settings.style == "pytorch" else (stride, 1)
        self.pool_stride = second if avg_down_stride else 1
        self.conv1 = build_conv(cfg, in_channels, width, 1, first, bias=False)
        self.first_norm = add_norm(self, norm, width, 1)
        self.conv2 = SplitAttentionConv2d(
            width, second // self.pool_stride, dilation, groups, radix, reduction_factor, settings
        )
        self.conv3 = build_conv(cfg, width, out_channels, 1, bias=False)
        self.last_norm = add_norm(self, norm, out_channels, 3)
        self.downsample = downsample
        self.plugins = (
            add_plugins(self, settings.plugins, "after_conv1", channels),
            add_plugins(self, settings.plugins, "after_conv2", channels),
            add_plugins(self, settings.plugins, "after_conv3", out_channels),
        )

    def residual(self, x: Tensor) -> Tensor:
        x = F.relu(getattr(self, self.first_norm)(self.conv1(x)), inplace=True)
        x = self.conv2(apply_plugins(self, self.plugins[0], x))
        if self.pool_stride > 1:
            x = F.avg_pool2d(x, 3, self.pool_stride, padding=1)
        x = apply_plugins(self, self.plugins[1], x)
        x = getattr(self, self.last_norm)(self.conv3(x))
        return apply_plugins(self, self.plugins[2], x)


@MODELS.register_module()
class ResNeSt(ResidualNet):
    """x [B, 3, H, W] -> the feature maps of `out_indices`, stage i at stride 4 * 2**i.

    The stem and the shortcuts are those of ResNet-D. The other settings are those of ResidualNet.
    Source: mmdet/models/backbones/resnest.py.
    """

    def __init__(
        self,
        depth: int,
        groups: int = 1,
        base_width: int = 4,
        radix: int = 2,
        reduction_factor: int = 4,
        avg_down_stride: bool = True,
        base_channels: int = 64,
        stem_channels: int | None = None,  # that of base_channels
        num_stages: int = 4,
        strides: Sequence[int] = (1, 2, 2, 2),
        dilations: Sequence[int] = (1, 1, 1, 1),
        **settings: Any,
    ) -> None:
        blocks = blocks_of_depth("ResNeSt", depth, DEPTHS)
        stages = []
        for i in range(num_stages):
            channels = base_channels * 2**i
            block = partial(
                SplitAttentionBottleneck,
                groups=groups,
                width=grouped_width(channels, groups, base_width, base_channels),
                radix=radix,
                reduction_factor=reduction_factor,
                avg_down_stride=avg_down_stride,
            )
            out = channels * SplitAttentionBottleneck.expansion
            stages.append(Stage(block, blocks[i], channels, out, strides[i], dilations[i]))
        fixed = {"deep_stem": True, "avg_down": True}
        super().__init__(
            stages, stem_channels=stem_channels or base_channels, **{**settings, **fixed}
        )
