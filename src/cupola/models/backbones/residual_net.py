"""What ResNet and the backbones derived from it share: a stem and stages of residual blocks."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from cupola import nn
from cupola.models.backbones.residual import (
    BATCH_NORM,
    BlockSettings,
    Stage,
    build_stage,
    zero_last_norms,
)
from cupola.models.layers import build_conv, build_norm
from cupola.models.layers.building import add_norm
from cupola.models.layers.freezing import freeze, keep_statistics
from cupola.models.layers.initialization import initialize_convolutions, pretrained_init
from cupola.models.layers.plugins import stage_plugins

Config = Mapping[str, Any]


class ResidualNet(nn.Module):
    """Abstract: x [B, 3, H, W] -> the feature maps of `out_indices`, finest first.

    The stem is a 7x7 convolution and a pooling, stride 4; with `deep_stem` it has three 3x3
    convolutions instead, and with `pool` False one 3x3 convolution and stride 2. `frozen_stages` n
    freezes the stem and the first n stages; `norm_eval` makes batch norms use their running
    statistics in training too. `stage_with_dcn` names the stages whose 3x3 convolutions are
    `dcn`, and each of the `plugins` the stages and the position in a block where it is inserted.
    `with_cp` (recomputation to save memory) changes no result and is ignored.
    Source: mmdet/models/backbones/resnet.py.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        in_channels: int = 3,
        stem_channels: int = 64,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        style: str = "pytorch",
        deep_stem: bool = False,
        avg_down: bool | str = False,
        frozen_stages: int = -1,
        conv_cfg: Config | None = None,
        norm_cfg: Config = BATCH_NORM,
        norm_eval: bool = True,
        dcn: Config | None = None,
        stage_with_dcn: Sequence[bool] = (False, False, False, False),
        plugins: Sequence[Config] | None = None,
        with_cp: bool = False,
        zero_init_residual: bool = True,
        pretrained: str | None = None,
        init_cfg: Any = None,
        pool: bool = True,
    ) -> None:
        super().__init__()
        _check(style, out_indices, len(stages), stage_with_dcn if dcn else None)
        self.init_cfg = pretrained_init(pretrained, init_cfg)
        self.out_indices = tuple(out_indices)
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval
        self.pool = pool
        self.stem: nn.Sequential | None = None
        self.stem_norm = ""
        if deep_stem:
            self.stem = _deep_stem(in_channels, stem_channels, conv_cfg, norm_cfg)
        else:
            kernel, padding = (7, 3) if pool else (3, 1)
            self.conv1 = build_conv(
                conv_cfg, in_channels, stem_channels, kernel, 2, padding=padding, bias=False
            )
            self.stem_norm = add_norm(self, norm_cfg, stem_channels, 1)
        self.stages: list[str] = []
        width = stem_channels
        for i, stage in enumerate(stages):
            settings = BlockSettings(
                norm_cfg,
                conv_cfg,
                dcn if dcn and stage_with_dcn[i] else None,
                stage_plugins(plugins, i),
                style,
            )
            self.add_module(f"layer{i + 1}", build_stage(stage, width, settings, avg_down))
            self.stages.append(f"layer{i + 1}")
            width = stage.out_channels
        initialize_convolutions(self)
        if zero_init_residual and self.init_cfg is None:
            zero_last_norms(self)
        self._freeze()

    def _freeze(self) -> None:
        if self.frozen_stages < 0:
            return
        stem = [self.stem] if self.stem is not None else [self.conv1, getattr(self, self.stem_norm)]
        freeze([*stem, *(getattr(self, name) for name in self.stages[: self.frozen_stages])])

    def train(self, mode: bool = True) -> "ResidualNet":
        super().train(mode)
        self._freeze()
        if mode and self.norm_eval:
            keep_statistics(self)
        return self

    def stem_maps(self, x: Tensor) -> Tensor:
        """x [B, 3, H, W] -> the input of the first stage."""
        if self.stem is not None:
            x = self.stem(x)
        else:
            x = F.relu(getattr(self, self.stem_norm)(self.conv1(x)), inplace=True)
        return F.max_pool2d(x, 3, 2, padding=1) if self.pool else x

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = self.stem_maps(x)
        maps = []  # only those asked for: at inference the others give their memory back
        for i, name in enumerate(self.stages[: max(self.out_indices) + 1]):
            x = getattr(self, name)(x)
            if i in self.out_indices:
                maps.append(x)
        return tuple(maps)


def _deep_stem(
    in_channels: int, channels: int, conv_cfg: Config | None, norm_cfg: Config
) -> nn.Sequential:
    """Three 3x3 convolutions, the first of stride 2 (arXiv 1812.01187, figure 2b)."""
    half = channels // 2
    layers: list[nn.Module] = []
    for cin, cout, stride in ((in_channels, half, 2), (half, half, 1), (half, channels, 1)):
        layers += [
            build_conv(conv_cfg, cin, cout, 3, stride, padding=1, bias=False),
            build_norm(norm_cfg, cout),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)


def _check(
    style: str,
    out_indices: Sequence[int],
    stages: int,
    stage_with_dcn: Sequence[bool] | None,
) -> None:
    if style not in ("pytorch", "caffe"):
        raise ValueError(f"style is 'pytorch' or 'caffe', got {style!r}")
    if not out_indices or not 0 <= min(out_indices) <= max(out_indices) < stages:
        raise ValueError(f"out_indices {tuple(out_indices)}: there are {stages} stages")
    if stage_with_dcn is not None and len(stage_with_dcn) < stages:
        raise ValueError(f"stage_with_dcn has {len(stage_with_dcn)} entries for {stages} stages")
