"""Residual blocks (arXiv 1512.03385) and stages of them, which many backbones are made of."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cupola import nn
from cupola.models.layers import build_conv, build_norm
from cupola.models.layers.building import add_norm
from cupola.models.layers.plugins import add_plugins, apply_plugins

Config = Mapping[str, Any]
BATCH_NORM: Config = {"type": "BN", "requires_grad": True}


@dataclass(frozen=True)
class BlockSettings:
    """What the blocks of a stage have in common."""

    norm_cfg: Config = field(default_factory=lambda: BATCH_NORM)
    conv_cfg: Config | None = None
    dcn: Config | None = None  # the 3x3 convolution, if it is another one than conv_cfg
    plugins: tuple[Config, ...] = ()  # each with a position
    style: str = "pytorch"  # "caffe" strides the first 1x1 convolution


PLAIN = BlockSettings()


class ResidualBlock(nn.Module):
    """Abstract: relu(residual(x) + shortcut(x))."""

    expansion = 1
    downsample: nn.Module | None
    last_norm: str

    def residual(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C', H / stride, W / stride]."""
        raise NotImplementedError

    def shortcut(self, x: Tensor) -> Tensor:
        """x in the shape of the residual."""
        return x if self.downsample is None else self.downsample(x)

    def forward(self, x: Tensor) -> Tensor:
        out, shortcut = self.residual(x), self.shortcut(x)
        out = out + shortcut if torch.is_grad_enabled() else out.add_(shortcut)
        return F.relu(out, inplace=True)


class BasicBlock(ResidualBlock):
    """Two 3x3 convolutions and a shortcut (ResNet-18 and -34)."""

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int = 1,
        dilation: int = 1,
        settings: BlockSettings = PLAIN,
        *,
        downsample: nn.Module | None = None,
        out_channels: int | None = None,
    ) -> None:
        super().__init__()
        if settings.plugins:
            raise ValueError("the blocks of ResNet-18 and -34 take no plugins")
        cfg = settings.conv_cfg
        self.conv1 = build_conv(
            cfg, in_channels, channels, 3, stride, padding=dilation, dilation=dilation, bias=False
        )
        self.first_norm = add_norm(self, settings.norm_cfg, channels, 1)
        self.conv2 = build_conv(settings.dcn or cfg, channels, channels, 3, padding=1, bias=False)
        self.last_norm = add_norm(self, settings.norm_cfg, channels, 2)
        self.downsample = downsample

    def residual(self, x: Tensor) -> Tensor:
        out = F.relu(getattr(self, self.first_norm)(self.conv1(x)), inplace=True)
        return getattr(self, self.last_norm)(self.conv2(out))


class Bottleneck(ResidualBlock):
    """1x1, 3x3 and 1x1 convolutions and a shortcut.

    `width` is the number of channels in between, and `groups` those of the 3x3 convolution.
    """

    expansion = 4

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int = 1,
        dilation: int = 1,
        settings: BlockSettings = PLAIN,
        *,
        downsample: nn.Module | None = None,
        out_channels: int | None = None,
        groups: int = 1,
        width: int | None = None,
    ) -> None:
        super().__init__()
        width = width or channels
        out_channels = out_channels or channels * self.expansion
        first, second = (1, stride) if settings.style == "pytorch" else (stride, 1)
        cfg, norm = settings.conv_cfg, settings.norm_cfg
        self.conv1 = build_conv(cfg, in_channels, width, 1, first, bias=False)
        self.first_norm = add_norm(self, norm, width, 1)
        self.conv2 = build_conv(
            settings.dcn or cfg, width, width, 3,
            stride=second, padding=dilation, dilation=dilation, groups=groups, bias=False,
        )  # fmt: skip
        self.middle_norm = add_norm(self, norm, width, 2)
        self.conv3 = build_conv(cfg, width, out_channels, 1, bias=False)
        self.last_norm = add_norm(self, norm, out_channels, 3)
        self.downsample = downsample
        self.plugins = (
            add_plugins(self, settings.plugins, "after_conv1", width),
            add_plugins(self, settings.plugins, "after_conv2", width),
            add_plugins(self, settings.plugins, "after_conv3", out_channels),
        )

    def residual(self, x: Tensor, conv2: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """[B, C, H, W] -> [B, C', H / stride, W / stride]; `conv2` replaces the 3x3 convolution."""
        out = F.relu(getattr(self, self.first_norm)(self.conv1(x)), inplace=True)
        out = apply_plugins(self, self.plugins[0], out)
        out = F.relu(getattr(self, self.middle_norm)((conv2 or self.conv2)(out)), inplace=True)
        out = apply_plugins(self, self.plugins[1], out)
        out = getattr(self, self.last_norm)(self.conv3(out))
        return apply_plugins(self, self.plugins[2], out)


Block = Callable[..., ResidualBlock]  # a class, or one with some of its settings given


@dataclass(frozen=True)
class Stage:
    """`count` blocks; `channels` is the width passed to a block, `out_channels` that of its output.

    `first` is the first block, if it is made otherwise, and `first_dilation` its dilation.
    """

    block: Block
    count: int
    channels: int
    out_channels: int
    stride: int = 1
    dilation: int = 1
    first: Block | None = None
    first_dilation: int | None = None


def build_stage(
    stage: Stage, in_channels: int, settings: BlockSettings, avg_down: bool | str = False
) -> nn.Sequential:
    """The blocks of a stage; the shortcut of the first one fits its input to the others.

    `avg_down` pools before the shortcut's convolution instead of striding it, with "strided" only
    where there is a stride. Source: mmdet/models/layers/res_layer.py.
    """
    out, stride = stage.out_channels, stage.stride
    shortcut = None
    if stride != 1 or in_channels != out:
        pool = avg_down is True or (avg_down == "strided" and stride != 1)
        shortcut = nn.Sequential(
            *([nn.AvgPool2d(stride, stride, ceil_mode=True, count_include_pad=False)] * pool),
            build_conv(settings.conv_cfg, in_channels, out, 1, 1 if pool else stride, bias=False),
            build_norm(settings.norm_cfg, out),
        )
    first_dilation = stage.dilation if stage.first_dilation is None else stage.first_dilation
    blocks = [
        (stage.first or stage.block)(
            in_channels, stage.channels, stride, first_dilation, settings,
            downsample=shortcut, out_channels=out,
        )
    ]  # fmt: skip
    for _ in range(stage.count - 1):
        blocks.append(
            stage.block(out, stage.channels, 1, stage.dilation, settings, out_channels=out)
        )
    return nn.Sequential(*blocks)


def zero_last_norms(module: nn.Module) -> None:
    """Starts the residual blocks below a module as the identity (arXiv 1706.02677, section 5.1)."""
    for block in module.modules():
        if isinstance(block, ResidualBlock):
            nn.init.zeros_(getattr(block, block.last_norm).weight)
