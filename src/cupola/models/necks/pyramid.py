"""What feature pyramids share: lateral convolutions, a top-down path, extra levels."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from cupola import nn
from cupola.models.layers import ConvModule
from cupola.models.layers.initialization import initialize_uniformly
from cupola.registry.budget import reserve

Config = Mapping[str, Any]
EXTRA_SOURCES = ("on_input", "on_lateral", "on_output")
NEAREST: Config = {"mode": "nearest"}


class FeaturePyramid(nn.Module):
    """Abstract: subclasses define `forward`, maps [B, C_i, H_i, W_i] -> `num_outs` maps of C.

    The inputs from `start_level` to `end_level` are used (-1: to the last). Extra levels are
    strided copies of the last level; with `add_extra_convs` they are stride-2 convolutions of the
    last input ("on_input" or True), lateral or output. `upsample_cfg` are options of
    torch.nn.functional.interpolate for the top-down path. Source: mmdet/models/necks/fpn.py.
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
        conv_cfg: Config | None = None,
        norm_cfg: Config | None = None,
        act_cfg: Config | None = None,
        upsample_cfg: Config = NEAREST,
        init_cfg: Any = None,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        last = used_end(name, len(in_channels), start_level, end_level)
        used = list(in_channels)[start_level : last + 1]
        if num_outs < len(used):
            raise ValueError(f"{name}: num_outs is {num_outs}, but {len(used)} inputs are used")
        self.init_cfg = init_cfg
        self.in_channels = list(in_channels)
        self.out_channels = out_channels
        self.start_level = start_level
        self.end_level = last
        reserve(num_outs)
        self.num_outs = num_outs
        self.extra_source = extra_source(name, add_extra_convs)
        self.relu_before_extra_convs = relu_before_extra_convs
        self.upsample_cfg = dict(upsample_cfg)
        self.conv_settings: dict[str, Any] = {
            "conv_cfg": conv_cfg,
            "norm_cfg": norm_cfg,
            "act_cfg": act_cfg,
        }
        self.lateral_convs = nn.ModuleList()
        self.fpn_convs = nn.ModuleList()
        lateral = {**self.conv_settings, "norm_cfg": None if no_norm_on_lateral else norm_cfg}
        for channels in used:
            self.lateral_convs.append(ConvModule(channels, out_channels, 1, **lateral))
            self.fpn_convs.append(self.output_conv(out_channels))
        for extra in range(num_outs - len(used) if self.extra_source else 0):
            first_of_input = extra == 0 and self.extra_source == "on_input"
            channels = used[-1] if first_of_input else out_channels
            self.fpn_convs.append(self.output_conv(channels, stride=2))
        initialize_uniformly(self)

    def output_conv(self, channels: int, stride: int = 1) -> ConvModule:
        """A 3x3 convolution to a level of the pyramid."""
        return ConvModule(channels, self.out_channels, 3, stride, padding=1, **self.conv_settings)

    def laterals(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """The used inputs, each after its lateral convolution."""
        if len(inputs) != len(self.in_channels):
            name = type(self).__name__
            raise ValueError(f"{name} expects {len(self.in_channels)} inputs, got {len(inputs)}")
        used = inputs[self.start_level : self.end_level + 1]
        return [conv(x) for conv, x in zip(self.lateral_convs, used, strict=True)]

    def upsample(self, coarse: Tensor, finer: Tensor) -> Tensor:
        """The coarse map in the size of the finer one, or as upsample_cfg's scale_factor says."""
        if "scale_factor" in self.upsample_cfg:
            return F.interpolate(coarse, **self.upsample_cfg)
        return F.interpolate(coarse, size=finer.shape[-2:], **self.upsample_cfg)

    def pyramid(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """All levels: lateral convolutions, a top-down path of sums, 3x3 convolutions."""
        laterals = self.laterals(inputs)
        for i in range(len(laterals) - 2, -1, -1):
            laterals[i] = laterals[i] + self.upsample(laterals[i + 1], laterals[i])
        return self.with_extra_levels(self.outputs(laterals), inputs, laterals)

    def outputs(self, merged: Sequence[Tensor]) -> list[Tensor]:
        """The levels of the inputs, after their 3x3 convolutions."""
        return [conv(x) for conv, x in zip(self.fpn_convs, merged, strict=False)]

    def with_extra_levels(
        self, outputs: list[Tensor], inputs: Sequence[Tensor], laterals: Sequence[Tensor]
    ) -> tuple[Tensor, ...]:
        """The outputs and the extra levels."""
        if not self.extra_source:
            while len(outputs) < self.num_outs:
                outputs.append(F.max_pool2d(outputs[-1], 1, stride=2))
            return tuple(outputs)
        sources = {"on_input": inputs[self.end_level], "on_lateral": laterals[-1]}
        x = sources.get(self.extra_source, outputs[-1])
        for extra, conv in enumerate(list(self.fpn_convs)[len(laterals) :]):
            x = conv(x.relu() if extra and self.relu_before_extra_convs else x)
            outputs.append(x)
        return tuple(outputs)


def used_end(name: str, inputs: int, start_level: int, end_level: int) -> int:
    """The index of the last input that a neck uses."""
    last = inputs - 1 if end_level == -1 else end_level
    if not 0 <= start_level <= last < inputs:
        raise ValueError(
            f"{name}: start_level {start_level} and end_level {end_level}, but {inputs} inputs"
        )
    return last


def extra_source(name: str, add_extra_convs: bool | str) -> str:
    """Where the first extra level comes from, "" without extra convolutions."""
    if add_extra_convs is True:
        return "on_input"
    if add_extra_convs and add_extra_convs not in EXTRA_SOURCES:
        raise ValueError(
            f"{name}: add_extra_convs is {add_extra_convs!r}, expected {EXTRA_SOURCES}"
        )
    return add_extra_convs or ""
