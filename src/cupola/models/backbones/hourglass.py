"""Stacked hourglass network (arXiv 1603.06937), as CornerNet uses it."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from cupola import nn
from cupola.models.backbones.residual import (
    BATCH_NORM,
    BasicBlock,
    BlockSettings,
    Stage,
    build_stage,
)
from cupola.models.layers import ConvModule, build_conv, build_norm
from cupola.registry import MODELS
from cupola.registry.budget import reserve

Config = Mapping[str, Any]


def _blocks(
    cin: int, cout: int, count: int, settings: BlockSettings, stride: int = 1
) -> nn.Sequential:
    return build_stage(Stage(BasicBlock, count, cout, cout, stride), cin, settings)


def _widening_last(cin: int, cout: int, count: int, settings: BlockSettings) -> nn.Sequential:
    """Blocks of which the last one changes the channels."""
    shortcut = None
    if cin != cout:
        conv = build_conv(settings.conv_cfg, cin, cout, 1, bias=False)
        shortcut = nn.Sequential(conv, build_norm(settings.norm_cfg, cout))
    blocks = [BasicBlock(cin, cin, 1, 1, settings) for _ in range(count - 1)]
    return nn.Sequential(*blocks, BasicBlock(cin, cout, 1, 1, settings, downsample=shortcut))


class HourglassModule(nn.Module):
    """x [B, C, H, W] -> the same shape: x at this size, plus an hourglass of half the size.

    It has batch norms, whatever norm the backbone has, as in the original.
    """

    def __init__(self, depth: int, channels: Sequence[int], blocks: Sequence[int]) -> None:
        super().__init__()
        settings = BlockSettings(BATCH_NORM)
        C, inner, count = channels[0], channels[1], blocks[0]
        self.up1 = _blocks(C, C, count, settings)
        self.low1 = _blocks(C, inner, count, settings, stride=2)
        self.low2: nn.Module
        if depth > 1:
            self.low2 = HourglassModule(depth - 1, channels[1:], blocks[1:])
        else:
            self.low2 = _blocks(inner, inner, blocks[1], settings)
        self.low3 = _widening_last(inner, C, count, settings)

    def forward(self, x: Tensor) -> Tensor:
        low = self.low3(self.low2(self.low1(x)))
        return self.up1(x) + F.interpolate(low, size=x.shape[2:], mode="nearest")


@MODELS.register_module()
class HourglassNet(nn.Module):
    """x [B, 3, H, W] -> a map [B, feat_channel, H / 4, W / 4] of each of the stacked hourglasses.

    Source: mmdet/models/backbones/hourglass.py.
    """

    def __init__(
        self,
        downsample_times: int = 5,
        num_stacks: int = 2,
        stage_channels: Sequence[int] = (256, 256, 384, 384, 384, 512),
        stage_blocks: Sequence[int] = (2, 2, 2, 2, 2, 4),
        feat_channel: int = 256,
        norm_cfg: Config = BATCH_NORM,
        init_cfg: Any = None,
    ) -> None:
        super().__init__()
        if not 0 < downsample_times < len(stage_channels) == len(stage_blocks):
            raise ValueError(
                f"HourglassNet: {downsample_times} downsamplings need a number more of "
                f"stage_channels and of stage_blocks, got {stage_channels} and {stage_blocks}"
            )
        if num_stacks < 1:
            raise ValueError(f"HourglassNet needs num_stacks >= 1, got {num_stacks}")
        reserve(num_stacks)
        self.init_cfg = init_cfg
        C, settings = stage_channels[0], BlockSettings(norm_cfg)
        last: dict[str, Any] = {"norm_cfg": norm_cfg, "act_cfg": None}
        self.stem = nn.Sequential(
            ConvModule(3, C // 2, 7, 2, padding=3, norm_cfg=norm_cfg),
            _blocks(C // 2, C, 1, settings, stride=2),
        )
        self.hourglass_modules = nn.ModuleList(
            HourglassModule(downsample_times, stage_channels, stage_blocks)
            for _ in range(num_stacks)
        )
        between = range(num_stacks - 1)
        self.inters = _blocks(C, C, num_stacks - 1, settings)
        self.conv1x1s = nn.ModuleList(ConvModule(C, C, 1, **last) for _ in between)
        self.out_convs = nn.ModuleList(
            ConvModule(C, feat_channel, 3, padding=1, norm_cfg=norm_cfg) for _ in range(num_stacks)
        )
        self.remap_convs = nn.ModuleList(ConvModule(feat_channel, C, 1, **last) for _ in between)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = self.stem(x)
        maps = []
        for i, (hourglass, conv) in enumerate(
            zip(self.hourglass_modules, self.out_convs, strict=True)
        ):
            maps.append(conv(hourglass(x)))
            if i < len(self.conv1x1s):
                x = self.inters(F.relu(self.conv1x1s[i](x) + self.remap_convs[i](maps[-1])))
        return tuple(maps)
