"""Necks found by architecture search: NAS-FPN (arXiv 1904.07392), NAS-FCOS (arXiv 1906.04423)."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from cupola import nn
from cupola.models.layers import ConvModule
from cupola.models.layers.conv_module import RELU
from cupola.models.layers.merge_cells import MergeCell
from cupola.models.necks.pyramid import used_end
from cupola.registry import MODELS
from cupola.registry.budget import reserve

Config = Mapping[str, Any]
BATCH_NORM: Config = {"type": "BN"}
# The cells of NAS-FPN: name, merge, whether a convolution follows.
NAS_CELLS = (
    ("gp_64_4", "pool", True), ("sum_44_4", "sum", True), ("sum_43_3", "sum", True),
    ("sum_34_4", "sum", True), ("gp_43_5", "pool", False), ("sum_55_5", "sum", True),
    ("gp_54_7", "pool", False), ("sum_77_7", "sum", True), ("gp_75_6", "pool", True),
)  # fmt: skip
# The cells of NAS-FCOS: the maps that they merge, and whether the second has a convolution.
FCOS_CELLS = {"c22_1": (2, 2, True), "c22_2": (2, 2, True), "c32": (3, 2, False),
              "c02": (0, 2, False), "c42": (4, 2, True), "c36": (3, 6, True),
              "c61": (6, 1, True)}  # fmt: skip


def _initialize(module: nn.Module) -> None:
    for each in module.modules():
        if isinstance(each, nn.Conv2d):
            nn.init.kaiming_uniform_(each.weight, a=1)
            if each.bias is not None:
                nn.init.zeros_(each.bias)


@MODELS.register_module()
class NASFPN(nn.Module):
    """Maps [B, C_i, H_i, W_i] of a backbone -> 5 maps, through `stack_times` searched stages.

    `add_extra_convs` is unused. Source: mmdet/models/necks/nas_fpn.py.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int,
        num_outs: int,
        stack_times: int,
        start_level: int = 0,
        end_level: int = -1,
        norm_cfg: Config | None = None,
        add_extra_convs: bool | str = False,
        init_cfg: Any = None,
    ) -> None:
        super().__init__()
        last = used_end("NASFPN", len(in_channels), start_level, end_level)
        used = list(in_channels)[start_level : last + 1]
        if num_outs != 5 or len(used) > num_outs:
            raise ValueError(f"NASFPN gives 5 maps, got num_outs {num_outs} of {len(used)} inputs")
        reserve(stack_times)
        C = out_channels
        plain: dict[str, Any] = {"norm_cfg": norm_cfg, "act_cfg": None}
        self.init_cfg = init_cfg
        self.start_level = start_level
        self.lateral_convs = nn.ModuleList(ConvModule(width, C, 1, **plain) for width in used)
        self.extra_downsamples = nn.ModuleList(
            nn.Sequential(ConvModule(C, C, 1, **plain), nn.MaxPool2d(2, 2))
            for _ in range(num_outs - len(used))
        )
        order = ("act", "conv", "norm")
        self.fpn_stages = nn.ModuleList()
        for _ in range(stack_times):
            cells = nn.ModuleDict()
            for name, merge, with_conv in NAS_CELLS:
                conv = None
                if with_conv:
                    conv = ConvModule(C, C, 3, padding=1, bias=True, norm_cfg=norm_cfg, order=order)
                cells[name] = MergeCell(merge, conv)
            self.fpn_stages.append(cells)
        _initialize(self)

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        used = inputs[self.start_level : self.start_level + len(self.lateral_convs)]
        maps = [conv(x) for conv, x in zip(self.lateral_convs, used, strict=True)]
        for downsample in self.extra_downsamples:
            maps.append(downsample(maps[-1]))
        p3, p4, p5, p6, p7 = maps
        s3, s4, s5, s6, s7 = (tuple(x.shape[2:]) for x in maps)
        for cells in self.fpn_stages:
            middle = cells["sum_44_4"](cells["gp_64_4"](p6, p4, s4), p4, s4)
            p3 = cells["sum_43_3"](middle, p3, s3)
            p4 = cells["sum_34_4"](p3, middle, s4)
            p5 = cells["sum_55_5"](p5, cells["gp_43_5"](p4, p3, s5), s5)
            p7 = cells["sum_77_7"](p7, cells["gp_54_7"](p5, middle, s7), s7)
            p6 = cells["gp_75_6"](p7, p5, s6)
        return p3, p4, p5, p6, p7


@MODELS.register_module("NASFCOS_FPN")
class NASFCOSFPN(nn.Module):
    """Maps [B, C_i, H_i, W_i] of a backbone -> num_outs maps; the cells' inputs are `conv_cfg`.

    `add_extra_convs` is unused. Source: mmdet/models/necks/nasfcos_fpn.py; state keys adapt_convs,
    fpn, extra_downsamples.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int,
        num_outs: int,
        start_level: int = 1,
        end_level: int = -1,
        add_extra_convs: bool | str = False,
        conv_cfg: Config | None = None,
        norm_cfg: Config | None = None,
        init_cfg: Any = None,
    ) -> None:
        super().__init__()
        last = used_end("NASFCOS_FPN", len(in_channels), start_level, end_level)
        used = list(in_channels)[start_level : last + 1]
        if len(used) != 3 or start_level != 1 or num_outs < 3:
            raise ValueError(f"NASFCOS_FPN uses the inputs 1 to 3, got start_level {start_level}")
        reserve(num_outs)
        self.init_cfg = init_cfg
        C = out_channels
        self.adapt_convs = nn.ModuleList(
            ConvModule(width, C, 1, bias=False, norm_cfg=BATCH_NORM, inplace=False)
            for width in used
        )
        self.fpn = nn.ModuleDict()
        order = ("norm", "act", "conv")
        inner: dict[str, Any] = {"conv_cfg": conv_cfg, "norm_cfg": norm_cfg, "bias": True}
        for name, (_, _, second) in FCOS_CELLS.items():
            self.fpn[name] = MergeCell(
                "concat",
                ConvModule(2 * C, C, 1, groups=C, bias=False, norm_cfg=BATCH_NORM, order=order),
                ConvModule(C, C, 3, padding=1, **inner),
                ConvModule(C, C, 3, padding=1, **inner) if second else None,
            )
        self.extra_downsamples = nn.ModuleList(
            ConvModule(
                C, C, 3, 2, padding=1,
                act_cfg=RELU if i else None, inplace=False, order=("act", "norm", "conv"),
            )
            for i in range(num_outs - len(used))
        )  # fmt: skip
        for part in (self.adapt_convs, self.extra_downsamples):
            _initialize(part)

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        maps = [conv(x) for conv, x in zip(self.adapt_convs, inputs[1:4], strict=True)]
        for name, (first, second, _) in FCOS_CELLS.items():
            maps.append(self.fpn[name](maps[first], maps[second]))
        outs = []
        for index, level in ((9, 1), (8, 2), (7, 3)):
            merged = maps[index] + _bilinear(maps[5], maps[index])
            outs.append(_bilinear(merged, inputs[level]))
        for conv in self.extra_downsamples:
            outs.append(conv(outs[-1]))
        return tuple(outs)


def _bilinear(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, size=like.shape[2:], mode="bilinear", align_corners=False)
