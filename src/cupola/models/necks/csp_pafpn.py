"""Path aggregation with CSP layers, as YOLOX (arXiv 2107.08430) and RTMDet (2212.07784) use it."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cupola import nn
from cupola.models.layers import ConvModule
from cupola.models.layers.csp import BATCH_NORM, SWISH, CSPLayer, conv_of
from cupola.registry import MODELS

Config = Mapping[str, Any]
DOUBLE: Config = {"scale_factor": 2, "mode": "nearest"}


class CSPPathAggregation(nn.Module):
    """Abstract: maps [B, in_channels[i], H_i, W_i] -> maps [B, out_channels, H_i, W_i].

    A path from coarse to fine and one back; each merges two maps by concatenation and a CSPLayer.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        num_csp_blocks: int,
        use_depthwise: bool,
        csp: Mapping[str, Any],
        upsample_cfg: Config,
        cfgs: dict[str, Any],
        init_cfg: Any,
    ) -> None:
        super().__init__()
        self.init_cfg = init_cfg
        self.upsample_cfg = dict(upsample_cfg)
        settings = {"num_blocks": num_csp_blocks, "add_identity": False,
                    "use_depthwise": use_depthwise, **csp, **cfgs}  # fmt: skip
        pairs = list(pairwise(in_channels))  # finer, coarser
        self.reduce_layers = nn.ModuleList()
        self.top_down_blocks = nn.ModuleList()
        for fine, coarse in reversed(pairs):
            self.reduce_layers.append(ConvModule(coarse, fine, 1, **cfgs))
            self.top_down_blocks.append(CSPLayer(2 * fine, fine, **settings))
        self.downsamples = nn.ModuleList()
        self.bottom_up_blocks = nn.ModuleList()
        for fine, coarse in pairs:
            conv = conv_of(use_depthwise)(fine, fine, 3, 2, padding=1, **cfgs)
            self.downsamples.append(conv)
            self.bottom_up_blocks.append(CSPLayer(2 * fine, coarse, **settings))
        self.out_convs = nn.ModuleList()

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        if len(inputs) != len(self.out_convs):
            name = type(self).__name__
            raise ValueError(f"{name} expects {len(self.out_convs)} inputs, got {len(inputs)}")
        x = inputs[-1]
        reduced = []  # coarsest first
        steps = zip(self.reduce_layers, self.top_down_blocks, reversed(inputs[:-1]), strict=True)
        for reduce, merge, fine in steps:
            coarse = reduce(x)
            reduced.append(coarse)
            x = merge(torch.cat((F.interpolate(coarse, **self.upsample_cfg), fine), 1))
        outs = [x]
        back = zip(self.downsamples, self.bottom_up_blocks, reversed(reduced), strict=True)
        for down, merge, coarse in back:
            outs.append(merge(torch.cat((down(outs[-1]), coarse), 1)))
        return tuple(conv(x) for conv, x in zip(self.out_convs, outs, strict=True))


@MODELS.register_module()
class YOLOXPAFPN(CSPPathAggregation):
    """The neck of YOLOX. Source: mmdet/models/necks/yolox_pafpn.py."""

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int,
        num_csp_blocks: int = 3,
        use_depthwise: bool = False,
        upsample_cfg: Config = DOUBLE,
        conv_cfg: Config | None = None,
        norm_cfg: Config = BATCH_NORM,
        act_cfg: Config = SWISH,
        init_cfg: Any = None,
    ) -> None:
        cfgs: dict[str, Any] = {"conv_cfg": conv_cfg, "norm_cfg": norm_cfg, "act_cfg": act_cfg}
        super().__init__(
            in_channels, num_csp_blocks, use_depthwise, {}, upsample_cfg, cfgs, init_cfg
        )
        for channels in in_channels:
            self.out_convs.append(ConvModule(channels, out_channels, 1, **cfgs))


@MODELS.register_module()
class CSPNeXtPAFPN(CSPPathAggregation):
    """The neck of RTMDet. Source: mmdet/models/necks/cspnext_pafpn.py."""

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int,
        num_csp_blocks: int = 3,
        use_depthwise: bool = False,
        expand_ratio: float = 0.5,
        upsample_cfg: Config = DOUBLE,
        conv_cfg: Config | None = None,
        norm_cfg: Config = BATCH_NORM,
        act_cfg: Config = SWISH,
        init_cfg: Any = None,
    ) -> None:
        cfgs: dict[str, Any] = {"conv_cfg": conv_cfg, "norm_cfg": norm_cfg, "act_cfg": act_cfg}
        csp = {"use_cspnext_block": True, "expand_ratio": expand_ratio}
        super().__init__(
            in_channels, num_csp_blocks, use_depthwise, csp, upsample_cfg, cfgs, init_cfg
        )
        conv = conv_of(use_depthwise)
        for channels in in_channels:
            self.out_convs.append(conv(channels, out_channels, 3, padding=1, **cfgs))
