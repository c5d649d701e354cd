"""The layers of a box head: those that both predictions share, and those of each."""

from collections.abc import Mapping
from typing import Any

from cupola import nn
from cupola.models.layers import ConvModule
from cupola.registry import MODELS

Config = Mapping[str, Any]


def layer_counts(settings: Config) -> dict[str, tuple[int, int]]:
    """The numbers of convolutions and linear layers of the branches shared, cls and reg."""
    branches = ("shared", "cls", "reg")
    known = {f"num_{branch}_{kind}" for branch in branches for kind in ("convs", "fcs")}
    if unknown := sorted(set(settings) - known):
        raise TypeError(f"a box head has no setting {unknown[0]!r}")
    return {
        branch: (settings.get(f"num_{branch}_convs", 0), settings.get(f"num_{branch}_fcs", 0))
        for branch in branches
    }


class Branches:
    """Makes stacks of convolutions and linear layers."""

    def __init__(
        self, channels: int, width: int, area: int, conv_cfg: Config | None, norm_cfg: Config | None
    ) -> None:
        self.channels, self.width, self.area = channels, width, area
        self.settings: dict[str, Any] = {"conv_cfg": conv_cfg, "norm_cfg": norm_cfg}

    def make(
        self, width: int, counts: tuple[int, int], flat: bool
    ) -> tuple[tuple[nn.ModuleList, nn.ModuleList], int, bool]:
        """(convolutions, linear layers), the width of the result, and whether it is flat.

        `width` is the channels of the input, or its numbers if it is `flat`.
        """
        convs, layers = nn.ModuleList(), nn.ModuleList()
        for _ in range(counts[0]):
            convs.append(ConvModule(width, self.channels, 3, padding=1, **self.settings))
            width = self.channels
        for _ in range(counts[1]):
            layers.append(nn.Linear(width if flat else width * self.area, self.width))
            width, flat = self.width, True
        return (convs, layers), width, flat


def predictor(cfg: Config | None, inputs: int, outputs: int) -> nn.Module:
    """A linear layer, or the kind that the config names."""
    settings = {"in_features": inputs, "out_features": outputs}
    return MODELS.build({"type": "Linear", **(cfg or {}), **settings})
