"""Stacks of convolutions that all levels of a pyramid share."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from cupola import nn
from cupola.models.layers import ConvModule
from cupola.registry.budget import reserve

Config = Mapping[str, Any]
GROUP_NORM: Config = {"type": "GN", "num_groups": 32, "requires_grad": True}


def stack(
    count: int,
    in_channels: int,
    channels: int,
    conv_cfg: Config | None = None,
    norm_cfg: Config | None = None,
    last_conv_cfg: Config | None = None,
    first_conv_cfg: Config | None = None,
    **settings: Any,
) -> nn.ModuleList:
    """`count` convolutions of 3x3; `first_conv_cfg` and `last_conv_cfg` are the ends' own kinds."""
    reserve(count)
    kinds = [conv_cfg] * count
    if count and last_conv_cfg is not None:
        kinds[-1] = last_conv_cfg
    if count and first_conv_cfg is not None:
        kinds[0] = first_conv_cfg
    common: dict[str, Any] = {"norm_cfg": norm_cfg, **settings}
    return nn.ModuleList(
        ConvModule(channels if i else in_channels, channels, 3, padding=1, conv_cfg=kind, **common)
        for i, kind in enumerate(kinds)
    )


def apply(layers: nn.ModuleList, x: Tensor) -> Tensor:
    """The layers, one after the other."""
    for layer in layers:
        x = layer(x)
    return x


def initial(name: str) -> Config:
    """Convolutions begin with std 0.01, those of the classes with a score of 0.01."""
    override = {"type": "Normal", "name": name, "std": 0.01, "bias_prob": 0.01}
    return {"type": "Normal", "layer": "Conv2d", "std": 0.01, "override": override}
