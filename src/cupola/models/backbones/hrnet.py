"""HRNet (arXiv 1904.04514): branches of several resolutions side by side, which exchange maps."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from cupola import nn
from cupola.models.backbones.residual import (
    BasicBlock,
    BlockSettings,
    Bottleneck,
    Stage,
    build_stage,
    zero_last_norms,
)
from cupola.models.layers import build_conv, build_norm
from cupola.models.layers.building import add_norm
from cupola.models.layers.freezing import keep_statistics
from cupola.models.layers.initialization import initialize_convolutions, pretrained_init
from cupola.registry import MODELS
from cupola.registry.budget import reserve

Config = Mapping[str, Any]
STEM_CHANNELS = 64
BLOCKS: dict[str, type[BasicBlock] | type[Bottleneck]] = {
    "BASIC": BasicBlock,
    "BOTTLENECK": Bottleneck,
}


def _strided(cin: int, cout: int, settings: BlockSettings, relu: bool) -> nn.Sequential:
    """A 3x3 convolution of stride 2 with its norm."""
    conv = build_conv(settings.conv_cfg, cin, cout, 3, 2, padding=1, bias=False)
    last = [nn.ReLU(inplace=False)] if relu else []
    return nn.Sequential(conv, build_norm(settings.norm_cfg, cout), *last)


def _steps(cin: int, cout: int, count: int, settings: BlockSettings, relu: bool) -> nn.Sequential:
    """`count` strided convolutions; the last one changes the channels, with a ReLU if `relu`."""
    steps = [_strided(cin, cin, settings, True) for _ in range(count - 1)]
    return nn.Sequential(*steps, _strided(cin, cout, settings, relu))


class HRModule(nn.Module):
    """Branches of residual blocks, and the fusion of all branches to each (figure 2).

    (maps [B, C_i, H / 2**i, W / 2**i]) -> maps of the same shapes, the first only if not
    `multiscale`.
    """

    def __init__(
        self, stages: Sequence[Stage], widths: Sequence[int], multiscale: bool,
        settings: BlockSettings,
    ) -> None:  # fmt: skip
        super().__init__()
        self.branches = nn.ModuleList(
            build_stage(stage, width, settings) for stage, width in zip(stages, widths, strict=True)
        )
        outs = [stage.out_channels for stage in stages]
        self.fuse_layers: nn.ModuleList | None = None
        if len(stages) > 1:
            self.fuse_layers = nn.ModuleList(
                nn.ModuleList(_exchange(outs, j, i, settings) for j in range(len(stages)))
                for i in range(len(stages) if multiscale else 1)
            )

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        maps = [branch(x) for branch, x in zip(self.branches, maps, strict=True)]
        if self.fuse_layers is None:
            return maps
        fused = []
        for row in self.fuse_layers:
            parts = [layer(x) for layer, x in zip(row, maps, strict=True)]
            fused.append(F.relu(sum(parts[1:], parts[0])))
        return fused


def _exchange(
    widths: Sequence[int], source: int, target: int, settings: BlockSettings
) -> nn.Module:
    """From one branch to another: upsampled if the target is finer, strided if it is coarser."""
    if source == target:
        return nn.Identity()
    if source < target:
        return _steps(widths[source], widths[target], target - source, settings, relu=False)
    conv = build_conv(settings.conv_cfg, widths[source], widths[target], 1, bias=False)
    norm = build_norm(settings.norm_cfg, widths[target])
    return nn.Sequential(conv, norm, nn.Upsample(scale_factor=2 ** (source - target)))


@MODELS.register_module()
class HRNet(nn.Module):
    """x [B, 3, H, W] -> maps of all branches, branch i at stride 4 * 2**i.

    `extra` has stage1 to stage4, each with num_modules, num_branches, block ("BASIC" or
    "BOTTLENECK"), num_blocks and num_channels (one per branch). `norm_eval` keeps the running
    statistics in training. `with_cp` is ignored. Source: mmdet/models/backbones/hrnet.py.
    """

    def __init__(
        self,
        extra: Mapping[str, Config],
        in_channels: int = 3,
        conv_cfg: Config | None = None,
        norm_cfg: Config | None = None,
        norm_eval: bool = True,
        with_cp: bool = False,
        zero_init_residual: bool = False,
        multiscale_output: bool = True,
        pretrained: str | None = None,
        init_cfg: Any = None,
    ) -> None:
        super().__init__()
        stages = [_stage(extra, number) for number in range(1, 5)]
        settings = BlockSettings(norm_cfg or {"type": "BN"}, conv_cfg)
        self.init_cfg = pretrained_init(pretrained, init_cfg)
        self.norm_eval = norm_eval
        C = STEM_CHANNELS
        self.conv1 = build_conv(conv_cfg, in_channels, C, 3, 2, padding=1, bias=False)
        self.first_norm = add_norm(self, settings.norm_cfg, C, 1)
        self.conv2 = build_conv(conv_cfg, C, C, 3, 2, padding=1, bias=False)
        self.second_norm = add_norm(self, settings.norm_cfg, C, 2)
        self.layer1 = build_stage(stages[0][0], C, settings)
        widths = [stages[0][0].out_channels]
        for number, branches in enumerate(stages[1:], 2):
            outs = [branch.out_channels for branch in branches]
            self.add_module(f"transition{number - 1}", _transition(widths, outs, settings))
            modules = extra[f"stage{number}"]["num_modules"]
            reserve(modules)
            all_scales = [multiscale_output or number < 4] + [True] * (modules - 1)
            self.add_module(
                f"stage{number}",
                nn.Sequential(*(HRModule(branches, outs, a, settings) for a in all_scales[::-1])),
            )
            widths = outs
        initialize_convolutions(self)
        if zero_init_residual and self.init_cfg is None:
            zero_last_norms(self)

    def train(self, mode: bool = True) -> "HRNet":
        super().train(mode)
        if mode and self.norm_eval:
            keep_statistics(self)
        return self

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = F.relu(getattr(self, self.first_norm)(self.conv1(x)), inplace=True)
        x = F.relu(getattr(self, self.second_norm)(self.conv2(x)), inplace=True)
        maps = [self.layer1(x)]
        for number in range(2, 5):
            # A new branch begins at the coarsest map that there was.
            sources = [*maps, maps[-1]] if number > 2 else maps * 2
            transition = getattr(self, f"transition{number - 1}")
            maps = [layer(x) for layer, x in zip(transition, sources, strict=True)]
            maps = getattr(self, f"stage{number}")(maps)
        return tuple(maps)


def _stage(extra: Mapping[str, Config], number: int) -> list[Stage]:
    """The branches of a stage."""
    cfg = extra[f"stage{number}"]
    branches, blocks, channels = cfg["num_branches"], cfg["num_blocks"], cfg["num_channels"]
    if not branches == len(blocks) == len(channels) == number:
        raise ValueError(
            f"HRNet stage{number} needs {number} branches, and num_blocks and num_channels of each"
        )
    if cfg["block"] not in BLOCKS:
        raise ValueError(f"HRNet block is one of {sorted(BLOCKS)}, got {cfg['block']!r}")
    block = BLOCKS[cfg["block"]]
    return [
        Stage(block, count, C, C * block.expansion)
        for count, C in zip(blocks, channels, strict=True)
    ]


def _transition(
    before: Sequence[int], after: Sequence[int], settings: BlockSettings
) -> nn.ModuleList:
    """From the branches of a stage to those of the next one, which has one more."""
    layers: list[nn.Module] = []
    for i, cout in enumerate(after):
        if i >= len(before):
            layers.append(_steps(before[-1], cout, i + 1 - len(before), settings, relu=True))
        elif before[i] == cout:
            layers.append(nn.Identity())
        else:
            conv = build_conv(settings.conv_cfg, before[i], cout, 3, padding=1, bias=False)
            norm = build_norm(settings.norm_cfg, cout)
            layers.append(nn.Sequential(conv, norm, nn.ReLU(inplace=True)))
    return nn.ModuleList(layers)
