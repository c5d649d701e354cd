"""FPN: a feature pyramid with the same number of channels on all levels."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from cupola import nn
from cupola.models.layers import ConvModule
from cupola.registry import MODELS
from cupola.registry.budget import reserve

EXTRA_SOURCES = ("on_input", "on_lateral", "on_output")


@MODELS.register_module()
class FPN(nn.Module):
    """Lateral 1x1 convolutions, a nearest top-down path, 3x3 convolutions, and extra levels.

    Sources: "Feature Pyramid Networks" (arXiv 1612.03144), section 3; mmdet/models/necks/fpn.py
    for the extra levels: without `add_extra_convs` they are strided copies of the last level,
    with it stride-2 convolutions of the last input, lateral or output.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int,
        num_outs: int,
        start_level: int = 0,
        end_level: int = -1,
        add_extra_convs: bool | str = False,
        relu_before_extra_convs: bool = False,
        no_norm_on_lateral: bool = False,
        conv_cfg: Mapping[str, Any] | None = None,
        norm_cfg: Mapping[str, Any] | None = None,
        act_cfg: Mapping[str, Any] | None = None,
        init_cfg: Any = None,
    ) -> None:
        super().__init__()
        last = len(in_channels) - 1 if end_level in (-1, len(in_channels) - 1) else end_level
        used = list(in_channels)[start_level : last + 1]
        if num_outs < len(used):
            raise ValueError(f"FPN: num_outs is {num_outs}, but {len(used)} inputs are used")
        if add_extra_convs is True:
            add_extra_convs = "on_input"
        if add_extra_convs and add_extra_convs not in EXTRA_SOURCES:
            raise ValueError(
                f"FPN: add_extra_convs is {add_extra_convs!r}, expected {EXTRA_SOURCES}"
            )
        self.in_channels = list(in_channels)
        self.start_level = start_level
        self.end_level = last
        reserve(num_outs)
        self.num_outs = num_outs
        self.extra_source = add_extra_convs
        self.relu_before_extra_convs = relu_before_extra_convs
        self.lateral_convs = nn.ModuleList()
        self.fpn_convs = nn.ModuleList()
        common: dict[str, Any] = {"conv_cfg": conv_cfg, "norm_cfg": norm_cfg, "act_cfg": act_cfg}
        lateral = {**common, "norm_cfg": None if no_norm_on_lateral else norm_cfg}
        for channels in used:
            self.lateral_convs.append(ConvModule(channels, out_channels, 1, **lateral))
            self.fpn_convs.append(ConvModule(out_channels, out_channels, 3, padding=1, **common))
        for extra in range(num_outs - len(used) if add_extra_convs else 0):
            first_of_input = extra == 0 and add_extra_convs == "on_input"
            channels = used[-1] if first_of_input else out_channels
            self.fpn_convs.append(
                ConvModule(channels, out_channels, 3, stride=2, padding=1, **common)
            )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """[B, C_i, H_i, W_i] of every backbone stage -> num_outs maps [B, C, H_j, W_j]."""
        if len(inputs) != len(self.in_channels):
            raise ValueError(f"FPN expects {len(self.in_channels)} inputs, got {len(inputs)}")
        used = list(inputs)[self.start_level : self.end_level + 1]
        laterals = [conv(x) for conv, x in zip(self.lateral_convs, used, strict=True)]
        for finer in range(len(laterals) - 2, -1, -1):
            size = laterals[finer].shape[-2:]
            laterals[finer] = laterals[finer] + F.interpolate(laterals[finer + 1], size=size)
        convs = list(self.fpn_convs)
        outputs = [conv(x) for conv, x in zip(convs, laterals, strict=False)]
        if not self.extra_source:
            while len(outputs) < self.num_outs:
                outputs.append(F.max_pool2d(outputs[-1], 1, stride=2))
            return tuple(outputs)
        source = {"on_input": used[-1], "on_lateral": laterals[-1], "on_output": outputs[-1]}
        x = source[str(self.extra_source)]
        for extra, conv in enumerate(convs[len(used) :]):
            if extra and self.relu_before_extra_convs:
                x = x.relu()
            x = conv(x)
            outputs.append(x)
        return tuple(outputs)
