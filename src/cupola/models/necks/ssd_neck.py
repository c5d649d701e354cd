"""The extra levels of SSD (arXiv 1512.02325)."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from cupola import nn
from cupola.models.layers import ConvModule
from cupola.models.layers.conv_module import RELU
from cupola.models.layers.csp import conv_of
from cupola.models.layers.initialization import initialize_uniformly
from cupola.registry import MODELS

Config = Mapping[str, Any]
EPS = 1e-10


class L2Norm(nn.Module):
    """x [B, C, H, W] over its L2 norm in each cell, times a learned scale of each channel."""

    def __init__(self, channels: int, scale: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((channels,), float(scale)))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        norm = wide.square().sum(1, keepdim=True).sqrt() + EPS
        return (self.weight[:, None, None].to(wide.dtype) * wide / norm).to(x.dtype)


@MODELS.register_module()
class SSDNeck(nn.Module):
    """Maps of the backbone -> the same, and a map of each pair of convolutions after the last.

    `out_channels` begins with `in_channels`. The first map is normalized if `l2_norm_scale`.
    Source: mmdet/models/necks/ssd_neck.py.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: Sequence[int],
        level_strides: Sequence[int],
        level_paddings: Sequence[int],
        l2_norm_scale: float | None = 20.0,
        last_kernel_size: int = 3,
        use_depthwise: bool = False,
        conv_cfg: Config | None = None,
        norm_cfg: Config | None = None,
        act_cfg: Config | None = RELU,
        init_cfg: Any = None,
    ) -> None:
        super().__init__()
        given = len(in_channels)
        if list(in_channels) != list(out_channels[:given]):
            raise ValueError(
                f"SSDNeck: out_channels {tuple(out_channels)} do not begin with in_channels "
                f"{tuple(in_channels)}"
            )
        if not len(level_strides) == len(level_paddings) == len(out_channels) - given > 0:
            raise ValueError(
                "SSDNeck: level_strides and level_paddings need a number for each of the "
                f"{len(out_channels) - given} extra levels"
            )
        self.init_cfg = init_cfg
        self.l2_norm = L2Norm(in_channels[0], l2_norm_scale) if l2_norm_scale else None
        cfgs: dict[str, Any] = {"conv_cfg": conv_cfg, "norm_cfg": norm_cfg, "act_cfg": act_cfg}
        self.extra_layers = nn.ModuleList()
        conv = conv_of(use_depthwise)
        for i, (stride, padding) in enumerate(zip(level_strides, level_paddings, strict=True)):
            cin, cout = out_channels[given - 1 + i], out_channels[given + i]
            kernel = last_kernel_size if i == len(level_strides) - 1 else 3
            first = ConvModule(cin, cout // 2, 1, **cfgs)
            second = conv(cout // 2, cout, kernel, stride, padding, **cfgs)
            self.extra_layers.append(nn.Sequential(first, second))
        initialize_uniformly(self)

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        maps = list(inputs)
        if self.l2_norm is not None:
            maps[0] = self.l2_norm(maps[0])
        for layer in self.extra_layers:
            maps.append(layer(maps[-1]))
        return tuple(maps)
