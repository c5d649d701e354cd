"""SmallResNet: a residual backbone for small images, trained from scratch."""

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from cupola import nn
from cupola.models.backbones.residual import BasicBlock
from cupola.models.layers import build_norm
from cupola.models.layers.freezing import keep_statistics
from cupola.registry import MODELS
from cupola.registry.budget import reserve


@MODELS.register_module()
class SmallResNet(nn.Module):
    """x [B, 3, H, W] -> the maps of the stages `out_indices`, by default of the last one.

    A 3x3 stem of stride 2, then one stage of `blocks` residual blocks per entry of `channels`;
    stage i has stride 2 * prod(strides[: i + 1]).
    Batch norms are trained, unlike those of a pretrained ResNet.
    """

    def __init__(
        self,
        channels: Sequence[int] = (48, 64, 96, 128),
        strides: Sequence[int] = (1, 2, 2, 2),
        blocks: int = 1,
        stem_channels: int = 32,
        norm_eval: bool = False,
        out_indices: Sequence[int] | None = None,
        init_cfg: Any = None,
    ) -> None:
        super().__init__()
        if len(channels) != len(strides):
            raise ValueError(f"{len(channels)} channels but {len(strides)} strides")
        last = len(channels) * blocks - 1
        ends = [(i + 1) * blocks - 1 for i in out_indices or ()]
        if ends and max(ends) > last:
            raise ValueError(f"out_indices {out_indices}: there are {len(channels)} stages")
        norm = {"type": "BN"}
        self.init_cfg = init_cfg
        self.norm_eval = norm_eval
        self.outputs = ends or [last]
        self.out_channels = channels[-1]
        self.conv1 = nn.Conv2d(3, stem_channels, 3, 2, padding=1, bias=False)
        self.bn1 = build_norm(norm, stem_channels)
        reserve(blocks)
        stages: list[nn.Module] = []
        width = stem_channels
        for channel, stride in zip(channels, strides, strict=True):
            for step in (stride, *[1] * (blocks - 1)):
                shortcut = None
                if step != 1 or width != channel:
                    shortcut = nn.Sequential(
                        nn.Conv2d(width, channel, 1, step, bias=False), build_norm(norm, channel)
                    )
                stages.append(BasicBlock(width, channel, step, downsample=shortcut))
                width = channel
        self.stages = nn.Sequential(*stages)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def train(self, mode: bool = True) -> "SmallResNet":
        super().train(mode)
        if mode and self.norm_eval:
            keep_statistics(self)
        return self

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return tuple(maps[i] for i in self.outputs)
