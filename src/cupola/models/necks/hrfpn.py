"""HRFPN: a pyramid by pooling of all maps of HRNet at the finest size (arXiv 1904.04514)."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cupola import nn
from cupola.models.layers import ConvModule
from cupola.models.layers.initialization import initialize_uniformly
from cupola.registry import MODELS
from cupola.registry.budget import reserve

Config = Mapping[str, Any]


@MODELS.register_module()
class HRFPN(nn.Module):
    """(maps [B, in_channels[i], H / 2**i, W / 2**i]) -> num_outs maps [B, C, H / 2**j, W / 2**j].

    `stride` is that of the 3x3 convolutions. `with_cp` (recomputation to save memory) changes no
    result and is ignored. Source: mmdet/models/necks/hrfpn.py.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int,
        num_outs: int = 5,
        pooling_type: str = "AVG",
        conv_cfg: Config | None = None,
        norm_cfg: Config | None = None,  # unused, as in the original
        with_cp: bool = False,
        stride: int = 1,
        init_cfg: Any = None,
    ) -> None:
        super().__init__()
        reserve(num_outs)
        self.init_cfg = init_cfg
        self.inputs = len(in_channels)
        self.pool = F.max_pool2d if pooling_type == "MAX" else F.avg_pool2d
        plain: dict[str, Any] = {"conv_cfg": conv_cfg, "act_cfg": None}
        self.reduction_conv = ConvModule(sum(in_channels), out_channels, 1, **plain)
        self.fpn_convs = nn.ModuleList(
            ConvModule(out_channels, out_channels, 3, stride, padding=1, **plain)
            for _ in range(num_outs)
        )
        initialize_uniformly(self)

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        if len(inputs) != self.inputs:
            raise ValueError(f"HRFPN expects {self.inputs} inputs, got {len(inputs)}")
        maps = [inputs[0]] + [
            F.interpolate(x, scale_factor=2**i, mode="bilinear")
            for i, x in enumerate(inputs[1:], 1)
        ]
        merged = self.reduction_conv(torch.cat(maps, 1))
        levels = [merged] + [self.pool(merged, 2**i, 2**i) for i in range(1, len(self.fpn_convs))]
        return tuple(conv(x) for conv, x in zip(self.fpn_convs, levels, strict=True))
