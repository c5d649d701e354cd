"""Recursive feature pyramid of DetectoRS (arXiv 2006.02334, section 3)."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cupola import nn
from cupola.models.necks.pyramid import FeaturePyramid
from cupola.registry import MODELS
from cupola.registry.budget import reserve

Config = Mapping[str, Any]


class ASPP(nn.Module):
    """Convolutions of several dilations side by side, the last one of the mean of the map.

    x [B, C, H, W] -> [B, len(dilations) * out_channels, H, W].
    """

    def __init__(self, in_channels: int, out_channels: int, dilations: Sequence[int]) -> None:
        super().__init__()
        if dilations[-1] != 1:
            raise ValueError(f"the last dilation of ASPP is 1, got {tuple(dilations)}")
        self.aspp = nn.ModuleList()
        for dilation in dilations:
            kernel, padding = (3, dilation) if dilation > 1 else (1, 0)
            conv = nn.Conv2d(in_channels, out_channels, kernel, padding=padding, dilation=dilation)
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
            self.aspp.append(conv)

    def forward(self, x: Tensor) -> Tensor:
        *convs, last = self.aspp
        maps = [F.relu(conv(x)) for conv in convs]
        mean = F.relu(last(x.mean((2, 3), keepdim=True)))
        return torch.cat([*maps, mean.expand(-1, -1, *x.shape[2:])], 1)


@MODELS.register_module()
class RFP(FeaturePyramid):
    """An FPN whose maps go through further backbones, `rfp_steps` times in all, and are mixed.

    (image [B, 3, H, W], maps [B, C_i, H_i, W_i]) -> num_outs maps. The further backbones
    `rfp_backbone` have weights of their own. Source: mmdet/models/necks/rfp.py; state keys
    rfp_modules, rfp_aspp, rfp_weight.
    """

    def __init__(
        self,
        rfp_steps: int,
        rfp_backbone: Config,
        aspp_out_channels: int,
        aspp_dilations: Sequence[int] = (1, 3, 6, 1),
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        reserve(rfp_steps)
        self.rfp_modules = nn.ModuleList(MODELS.build(rfp_backbone) for _ in range(rfp_steps - 1))
        self.rfp_aspp = ASPP(self.out_channels, aspp_out_channels, aspp_dilations)
        self.rfp_weight = nn.Conv2d(self.out_channels, 1, 1)
        nn.init.zeros_(self.rfp_weight.weight)
        if self.rfp_weight.bias is not None:
            nn.init.zeros_(self.rfp_weight.bias)

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        image, *maps = inputs
        outs = self.pyramid(maps)
        for backbone in self.rfp_modules:
            feedback = [outs[0], *(self.rfp_aspp(x) for x in outs[1:])]
            again = self.pyramid(backbone.recursive_maps(image, feedback))
            outs = tuple(self._mixed(new, old) for new, old in zip(again, outs, strict=True))
        return outs

    def _mixed(self, new: Tensor, old: Tensor) -> Tensor:
        weight = self.rfp_weight(new).sigmoid()
        return weight * new + (1 - weight) * old
