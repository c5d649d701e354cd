"""EfficientNet (arXiv 1905.11946)."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from cupola import nn
from cupola.models.backbones.chain import LayerChain
from cupola.models.layers import ConvModule
from cupola.models.layers.initialization import initialize_convolutions, pretrained_init
from cupola.models.layers.inverted_residual import (
    InvertedResidual,
    SqueezeExcitation,
    make_divisible,
)
from cupola.registry import MODELS

Config = Mapping[str, Any]
ADAPTIVE: Config = {"type": "Conv2dAdaptivePadding"}
BATCH_NORM: Config = {"type": "BN", "eps": 1e-3}
SWISH: Config = {"type": "Swish"}
# Of each stage its rows: kernel, channels, blocks, stride of the first block, expansion.
STAGES = (
    ((3, 16, 1, 1, 1),),
    ((3, 24, 2, 2, 6),),
    ((5, 40, 2, 2, 6),),
    ((3, 80, 3, 2, 6), (5, 112, 3, 1, 6)),
    ((5, 192, 4, 2, 6), (3, 320, 1, 1, 6)),
)
STEM_CHANNELS, LAST_CHANNELS = 32, 1280
SQUEEZE = 4  # the input's channels of a block over those in its middle
SCALES = {  # width and depth
    "b0": (1.0, 1.0), "b1": (1.0, 1.1), "b2": (1.1, 1.2), "b3": (1.2, 1.4), "b4": (1.4, 1.8),
    "b5": (1.6, 2.2), "b6": (1.8, 2.6), "b7": (2.0, 3.1), "b8": (2.2, 3.6),
}  # fmt: skip


@MODELS.register_module()
class EfficientNet(LayerChain):
    """x [B, 3, H, W] -> the maps of `out_indices`: 0 is the stem, 1 to 5 the stages, 6 the last.

    `frozen_stages` n freezes the first n of them; layers after the last output are not built.
    `drop_path_rate` is that of the last block. `with_cp` is ignored.
    Source: mmdet/models/backbones/efficientnet.py.
    """

    def __init__(
        self,
        arch: str = "b0",
        drop_path_rate: float = 0.0,
        out_indices: Sequence[int] = (6,),
        frozen_stages: int = 0,
        conv_cfg: Config | None = ADAPTIVE,
        norm_cfg: Config = BATCH_NORM,
        act_cfg: Config = SWISH,
        norm_eval: bool = False,
        with_cp: bool = False,
        pretrained: str | None = None,
        init_cfg: Any = None,
    ) -> None:
        if arch not in SCALES:
            raise ValueError(f"EfficientNet's arch is one of {', '.join(SCALES)}, got {arch!r}")
        cfgs: dict[str, Any] = {"conv_cfg": conv_cfg, "norm_cfg": norm_cfg, "act_cfg": act_cfg}
        wide, deep = SCALES[arch]
        width, end = make_divisible(STEM_CHANNELS * wide), max(out_indices)
        layers: list[nn.Module] = [ConvModule(3, width, 3, 2, padding=1, **cfgs)]
        rows = [[scaled(row, wide, deep) for row in stage] for stage in STAGES]
        total = sum(row[2] for stage in rows for row in stage)
        rates = iter(torch.linspace(0, drop_path_rate, total).tolist())
        for stage in rows[:end]:
            blocks: list[nn.Module] = []
            for kernel, channels, count, stride, expansion in stage:
                for number in range(count):
                    step = 1 if number else stride
                    rate = next(rates)
                    blocks.append(block(width, channels, kernel, step, expansion, rate, cfgs))
                    width = channels
            layers.append(nn.Sequential(*blocks))
        if end > len(STAGES):
            layers.append(ConvModule(width, make_divisible(LAST_CHANNELS * wide), 1, **cfgs))
        first = pretrained_init(pretrained, init_cfg)
        super().__init__(layers, out_indices, frozen_stages, norm_eval, first)
        initialize_convolutions(self)


def scaled(row: tuple[int, ...], wide: float, deep: float) -> tuple[int, ...]:
    """A row of STAGES with more channels and blocks."""
    kernel, channels, count, stride, expansion = row
    return kernel, make_divisible(channels * wide), math.ceil(deep * count), stride, expansion


def block(
    in_channels: int,
    out_channels: int,
    kernel: int,
    stride: int,
    expansion: int,
    drop_path: float,
    cfgs: Mapping[str, Any],
) -> InvertedResidual:
    """A block with squeeze-and-excitation to a fourth of its input's channels."""
    middle = in_channels * expansion
    squeeze = SqueezeExcitation(middle, int(middle / (expansion * SQUEEZE)), cfgs["act_cfg"])
    return InvertedResidual(
        in_channels,
        out_channels,
        middle,
        kernel,
        stride,
        expand=expansion != 1,
        squeeze=squeeze,
        drop_path=drop_path,
        **cfgs,
    )
