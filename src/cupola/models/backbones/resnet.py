"""ResNet (arXiv 1512.03385) as detectors use it: frozen stages, norms in eval mode.

State keys are torchvision's: conv1, bn1, layer1.0.conv1, ..., layer1.0.downsample.0.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from cupola import nn
from cupola.models.layers import build_conv, build_norm
from cupola.registry import MODELS

Config = Mapping[str, Any]
BATCH_NORM: Config = {"type": "BN", "requires_grad": True}


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (ResNet-18 and -34)."""

    expansion = 1

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int = 1,
        dilation: int = 1,
        *,
        norm_cfg: Config = BATCH_NORM,
        downsample: nn.Module | None = None,
        style: str = "pytorch",
        dcn: Config | None = None,
        out_channels: int | None = None,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(
            in_channels, channels, 3, stride, padding=dilation, dilation=dilation, bias=False
        )
        self.bn1 = build_norm(norm_cfg, channels)
        self.conv2 = build_conv(dcn, channels, channels, 3, stride=1, padding=1, bias=False)
        self.bn2 = build_norm(norm_cfg, channels)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = self.bn2(self.conv2(out))
        return F.relu(out + identity, inplace=True)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions and a shortcut; 'caffe' style strides the first 1x1."""

    expansion = 4

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int = 1,
        dilation: int = 1,
        *,
        norm_cfg: Config = BATCH_NORM,
        downsample: nn.Module | None = None,
        style: str = "pytorch",
        dcn: Config | None = None,
        out_channels: int | None = None,
    ) -> None:
        super().__init__()
        out_channels = out_channels or channels * self.expansion
        first, second = (1, stride) if style == "pytorch" else (stride, 1)
        self.conv1 = nn.Conv2d(in_channels, channels, 1, first, bias=False)
        self.bn1 = build_norm(norm_cfg, channels)
        self.conv2 = build_conv(
            dcn,
            channels,
            channels,
            3,
            stride=second,
            padding=dilation,
            dilation=dilation,
            bias=False,
        )
        self.bn2 = build_norm(norm_cfg, channels)
        self.conv3 = nn.Conv2d(channels, out_channels, 1, bias=False)
        self.bn3 = build_norm(norm_cfg, out_channels)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = F.relu(self.bn2(self.conv2(out)), inplace=True)
        out = self.bn3(self.conv3(out))
        return F.relu(out + identity, inplace=True)


ARCHITECTURES: dict[int, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, ...]]] = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
    152: (Bottleneck, (3, 8, 36, 3)),
}


@MODELS.register_module()
class ResNet(nn.Module):
    """x [B, 3, H, W] -> the feature maps of `out_indices`, stage i at stride 4 * 2**i.

    `frozen_stages` n freezes the stem and the first n stages; `norm_eval` makes batch norms
    use their running statistics in training too. `dilate_first_block` False leaves the first block
    of a dilated stage undilated, as facebookresearch's DC5 does. `stage_blocks` and `stage_widths`
    are the blocks and the output channels of each stage where they are not those of `depth`, which
    then only chooses the kind of block, as in a ResNetConfig of transformers.
    Source: mmdet/models/backbones/resnet.py.
    """

    def __init__(
        self,
        depth: int,
        in_channels: int = 3,
        stem_channels: int | None = None,  # that of base_channels
        base_channels: int = 64,
        num_stages: int = 4,
        strides: Sequence[int] = (1, 2, 2, 2),
        dilations: Sequence[int] = (1, 1, 1, 1),
        out_indices: Sequence[int] = (0, 1, 2, 3),
        style: str = "pytorch",
        frozen_stages: int = -1,
        norm_cfg: Config = BATCH_NORM,
        norm_eval: bool = True,
        dcn: Config | None = None,
        stage_with_dcn: Sequence[bool] = (False, False, False, False),
        with_cp: bool = False,
        dilate_first_block: bool = True,
        stage_blocks: Sequence[int] | None = None,
        stage_widths: Sequence[int] | None = None,
        pretrained: str | None = None,
        init_cfg: Any = None,
    ) -> None:
        super().__init__()
        if depth not in ARCHITECTURES:
            raise ValueError(f"ResNet depth is one of {sorted(ARCHITECTURES)}, got {depth}")
        if style not in ("pytorch", "caffe"):
            raise ValueError(f"ResNet style is 'pytorch' or 'caffe', got {style!r}")
        if not out_indices or max(out_indices) >= num_stages:
            raise ValueError(f"out_indices {tuple(out_indices)}: there are {num_stages} stages")
        block, blocks = ARCHITECTURES[depth]
        blocks = tuple(stage_blocks or blocks)
        widths = stage_widths or [base_channels * 2**i * block.expansion for i in range(num_stages)]
        self.init_cfg = init_cfg or (
            {"type": "Pretrained", "checkpoint": pretrained} if pretrained else None
        )
        self.out_indices = tuple(out_indices)
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval
        self.with_cp = with_cp
        stem_channels = stem_channels or base_channels
        self.conv1 = nn.Conv2d(in_channels, stem_channels, 7, 2, padding=3, bias=False)
        self.bn1 = build_norm(norm_cfg, stem_channels)
        self.stages: list[str] = []
        width = stem_channels
        for i in range(num_stages):
            stage, width = _stage(
                block,
                blocks[i],
                width,
                widths[i],
                strides[i],
                dilations[i],
                1 if not dilate_first_block else dilations[i],
                {
                    "norm_cfg": norm_cfg,
                    "style": style,
                    "dcn": dcn if stage_with_dcn[i] else None,
                },
            )
            self.add_module(f"layer{i + 1}", stage)
            self.stages.append(f"layer{i + 1}")
        self._initialize()
        self._freeze()

    def _initialize(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def _freeze(self) -> None:
        if self.frozen_stages < 0:
            return
        for module in (self.conv1, self.bn1, *self._frozen()):
            module.eval()
            for parameter in module.parameters():
                parameter.requires_grad = False

    def _frozen(self) -> list[nn.Module]:
        return [getattr(self, name) for name in self.stages[: self.frozen_stages]]

    def train(self, mode: bool = True) -> "ResNet":
        super().train(mode)
        self._freeze()
        if mode and self.norm_eval:
            for module in self.modules():
                if isinstance(module, (nn.BatchNorm2d, nn.SyncBatchNorm)):
                    module.eval()
        return self

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        x = F.max_pool2d(x, 3, 2, padding=1)  # [B, C, H/4, W/4]
        maps = []
        for name in self.stages[: max(self.out_indices) + 1]:
            x = getattr(self, name)(x)
            maps.append(x)
        return tuple(maps[i] for i in self.out_indices)


def _stage(
    block: type[BasicBlock] | type[Bottleneck],
    count: int,
    in_channels: int,
    out_channels: int,
    stride: int,
    dilation: int,
    first_dilation: int,
    settings: dict[str, Any],
) -> tuple[nn.Sequential, int]:
    channels = out_channels // block.expansion
    settings["out_channels"] = out_channels
    shortcut = None
    if stride != 1 or in_channels != out_channels:
        shortcut = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 1, stride, bias=False),
            build_norm(settings["norm_cfg"], out_channels),
        )
    layers: list[nn.Module] = [
        block(in_channels, channels, stride, first_dilation, downsample=shortcut, **settings)
    ]
    layers += [block(out_channels, channels, 1, dilation, **settings) for _ in range(count - 1)]
    return nn.Sequential(*layers), out_channels
