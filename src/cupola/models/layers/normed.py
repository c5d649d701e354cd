"""Predictors of cosines: weights and features are divided by their norms.

Source: mmdet/models/layers/normed_predictor.py. `tempearture` is the original's spelling.
"""

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from cupola import nn
from cupola.registry import MODELS


@MODELS.register_module()
class NormedLinear(nn.Linear):
    """x [..., in_features] -> [..., out_features]."""

    def __init__(
        self,
        *args: Any,
        tempearture: float = 20,
        power: float = 1.0,
        eps: float = 1e-6,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.temperature, self.power, self.eps = tempearture, power, eps
        nn.init.normal_(self.weight, std=0.01)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight / (self.weight.norm(dim=1, keepdim=True).pow(self.power) + self.eps)
        x = x / (x.norm(dim=1, keepdim=True).pow(self.power) + self.eps)
        return F.linear(x * self.temperature, weight, self.bias)


@MODELS.register_module()
class NormedConv2d(nn.Conv2d):
    """x [B, in_channels, H, W] -> [B, out_channels, h, w].

    `norm_over_kernel` divides a filter by the norm of all its weights, not of each place.
    """

    def __init__(
        self,
        *args: Any,
        tempearture: float = 20,
        power: float = 1.0,
        eps: float = 1e-6,
        norm_over_kernel: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.temperature, self.power, self.eps = tempearture, power, eps
        self.over_kernel = norm_over_kernel

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight
        axes = (1, 2, 3) if self.over_kernel else (1,)
        weight = weight / (weight.norm(dim=axes, keepdim=True).pow(self.power) + self.eps)
        x = x / (x.norm(dim=1, keepdim=True).pow(self.power) + self.eps)
        return F.conv2d(
            x * self.temperature,
            weight,
            self.bias,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
        )
