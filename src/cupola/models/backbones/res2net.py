"""Res2Net (arXiv 1904.01169): bottlenecks whose 3x3 convolutions form a hierarchy of scales."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cupola import nn
from cupola.models.backbones.residual import BlockSettings, ResidualBlock, Stage
from cupola.models.backbones.residual_net import ResidualNet
from cupola.models.backbones.resnet import BLOCKS, blocks_of_depth, deeper
from cupola.models.layers import build_conv, build_norm
from cupola.models.layers.building import add_norm
from cupola.models.layers.plugins import add_plugins, apply_plugins
from cupola.registry import MODELS


class Bottle2neck(ResidualBlock):
    """A bottleneck that splits its channels into `scales` parts of `width`.

    Each part but the last goes through a 3x3 convolution, after the result of the part before it is
    added; the first block of a stage adds nothing and pools the last part (figure 2).
    """

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
        scales: int,
        width: int,
        first: bool = False,
    ) -> None:
        super().__init__()
        out_channels = out_channels or channels * self.expansion
        cfg, norm = settings.conv_cfg, settings.norm_cfg
        before, stride = (1, stride) if settings.style == "pytorch" else (stride, 1)
        self.width = width
        self.first = first
        self.conv1 = build_conv(cfg, in_channels, width * scales, 1, before, bias=False)
        self.first_norm = add_norm(self, norm, width * scales, 1)
        self.conv3 = build_conv(cfg, width * scales, out_channels, 1, bias=False)
        self.last_norm = add_norm(self, norm, out_channels, 3)
        self.downsample = downsample
        self.plugins = (
            add_plugins(self, settings.plugins, "after_conv1", channels),
            add_plugins(self, settings.plugins, "after_conv2", channels),
            add_plugins(self, settings.plugins, "after_conv3", out_channels),
        )
        self.stride = stride
        self.convs = nn.ModuleList(
            build_conv(
                settings.dcn or cfg, width, width, 3,
                stride=stride, padding=dilation, dilation=dilation, bias=False,
            )
            for _ in range(scales - 1)
        )  # fmt: skip
        self.bns = nn.ModuleList(build_norm(norm, width) for _ in range(scales - 1))

    def residual(self, x: Tensor) -> Tensor:
        x = F.relu(getattr(self, self.first_norm)(self.conv1(x)), inplace=True)
        *parts, last = torch.split(apply_plugins(self, self.plugins[0], x), self.width, 1)
        outs: list[Tensor] = []
        for part, conv, norm in zip(parts, self.convs, self.bns, strict=True):
            add = bool(outs) and not self.first
            outs.append(F.relu(norm(conv(part + outs[-1] if add else part)), inplace=True))
        if self.first and self.stride > 1:
            last = F.avg_pool2d(last, 3, self.stride, padding=1)
        out = apply_plugins(self, self.plugins[1], torch.cat([*outs, last], 1))
        out = getattr(self, self.last_norm)(self.conv3(out))
        return apply_plugins(self, self.plugins[2], out)


@MODELS.register_module()
class Res2Net(ResidualNet):
    """x [B, 3, H, W] -> the feature maps of `out_indices`, stage i at stride 4 * 2**i.

    The stem and the shortcuts are those of ResNet-D. The other settings are those of ResidualNet.
    Source: mmdet/models/backbones/res2net.py.
    """

    def __init__(
        self,
        depth: int,
        scales: int = 4,
        base_width: int = 26,
        base_channels: int = 64,
        stem_channels: int | None = None,  # that of base_channels
        num_stages: int = 4,
        strides: Sequence[int] = (1, 2, 2, 2),
        dilations: Sequence[int] = (1, 1, 1, 1),
        **settings: Any,
    ) -> None:
        if scales < 2:
            raise ValueError(f"Res2Net needs at least 2 scales, got {scales}")
        blocks = blocks_of_depth("Res2Net", depth, deeper(BLOCKS))
        stages = []
        for i in range(num_stages):
            channels = base_channels * 2**i
            width = int(channels * (base_width / base_channels))
            block = partial(Bottle2neck, scales=scales, width=width)
            stages.append(
                Stage(
                    block,
                    blocks[i],
                    channels,
                    channels * Bottle2neck.expansion,
                    strides[i],
                    dilations[i],
                    first=partial(block, first=True),
                )
            )
        fixed = {"style": "pytorch", "deep_stem": True, "avg_down": True}
        super().__init__(
            stages, stem_channels=stem_channels or base_channels, **{**settings, **fixed}
        )
