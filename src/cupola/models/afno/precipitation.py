"""PrecipNet: an AFNO followed by a convolution and a ReLU, so precipitation is not negative.

Original: NVlabs/FourCastNet networks/afnonet.py, classes PeriodicPad2d and PrecipNet.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cupola import nn
from cupola.errors import InputError
from cupola.models.afno.network import AFNONet
from cupola.models.afno.operator import FieldOperator
from cupola.registry import MODELS

# Meters of water in 6 hours; log_precipitation is nearly linear below (2202.11214, 3.3).
EPSILON = 1e-5


def log_precipitation(meters: Tensor, epsilon: float = EPSILON) -> Tensor:
    """log(1 + tp / epsilon): accumulated precipitation in meters -> the network's unit."""
    return torch.log1p(meters / epsilon)


def precipitation(logarithm: Tensor, epsilon: float = EPSILON) -> Tensor:
    """Inverse of `log_precipitation`: the network's unit -> meters."""
    return torch.expm1(logarithm) * epsilon


class PeriodicPad2d(nn.Module):
    """Periodic padding in longitude, zeros in latitude: H, W -> H + 2p, W + 2p."""

    def __init__(self, padding: int) -> None:
        super().__init__()
        self.padding = padding

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, H + 2p, W + 2p]."""
        p = self.padding
        return F.pad(F.pad(x, (p, p, 0, 0), mode="circular"), (0, 0, p, p))


@MODELS.register_module()
class PrecipNet(FieldOperator):
    """backbone -> periodic padding -> 3 x 3 convolution -> ReLU.

    backbone: an AFNONet, or its config. wind: an AFNONet or config that first advances the state by
    one step; it is frozen, like FourCastNet's wind model during precipitation training. epsilon: of
    the logarithm, in meters.
    """

    def __init__(
        self,
        backbone: AFNONet | Mapping[str, Any],
        wind: AFNONet | Mapping[str, Any] | None = None,
        freeze_backbone: bool = False,
        latitude_weights: bool = False,
        epsilon: float = EPSILON,
    ) -> None:
        super().__init__(latitude_weights)
        self.epsilon = epsilon
        self.backbone = MODELS.build(backbone) if isinstance(backbone, Mapping) else backbone
        channels = self.backbone.settings.out_chans
        self.ppad = PeriodicPad2d(1)
        self.conv = nn.Conv2d(channels, channels, kernel_size=3)
        self.act = nn.ReLU()
        self.wind = MODELS.build(wind) if isinstance(wind, Mapping) else wind
        if freeze_backbone:
            self.backbone.requires_grad_(False)
        if self.wind is not None:
            self.wind.requires_grad_(False)

    @property
    def example_shape(self) -> tuple[int, int, int]:
        """[C_in, H, W] of an input."""
        return self.backbone.example_shape

    def forward(self, x: Tensor) -> Tensor:
        """[B, C_in, H, W] -> precipitation [B, C_out, H, W] >= 0, in logarithmic units."""
        if self.wind is not None:
            with torch.no_grad():
                x = self.wind(x)
        return self._logarithm(x)

    def _logarithm(self, x: Tensor) -> Tensor:
        return self.act(self.conv(self.ppad(self.backbone(x))))

    def diagnose(self, x: Tensor) -> Tensor:
        """The precipitation that belongs to a state, in meters: [B, C, H, W] -> [B, P, H, W]."""
        return precipitation(self._logarithm(x), self.epsilon)

    def advance(self, x: Tensor) -> Tensor:
        """The state one step later, by the wind model: [B, C, H, W] -> [B, C, H, W].

        InputError without a wind model: precipitation does not tell the next state.
        """
        if self.wind is None:
            raise InputError(
                "this PrecipNet has no model that advances the state; make its bundle with the"
                " backbone's checkpoint: cupola bundle CONFIG CHECKPOINT OUT --backbone BACKBONE"
            )
        y: Tensor = self.wind(x)
        return y

    def rollout(
        self,
        x: Tensor,
        steps: int,
        forcings: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Iterator[Tensor]:
        """Yields the precipitation of `steps` states; the wind model advances the state."""
        for number in range(steps):
            yield self(x)
            if number + 1 < steps:
                with torch.no_grad():
                    x = self.advance(x)
