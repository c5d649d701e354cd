"""Convolutions with standardized weights (arXiv 1903.10520)."""

from typing import Any

import torch
from torch import Tensor

from cupola import nn
from cupola.registry import MODELS

EPS = 1e-5


@MODELS.register_module(["ConvWS", "ConvWS2d"])
class ConvWS2d(nn.Conv2d):
    """A convolution whose filters are shifted and scaled to mean 0 and deviation 1 in each call.

    Source: mmcv/cnn/bricks/conv_ws.py.
    """

    def __init__(self, *args: Any, eps: float = EPS, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, H, W] -> [B, O, h, w]."""
        deviation, mean = torch.std_mean(self.weight, (1, 2, 3), keepdim=True)
        weight = (self.weight - mean) / (deviation + self.eps)
        return self._conv_forward(x, weight, self.bias)


@MODELS.register_module(["ConvAWS", "ConvAWS2d"])
class ConvAWS2d(nn.Conv2d):
    """Adaptive weight standardization: afterwards, the filters get a stored scale and shift.

    Source: mmcv/cnn/bricks/conv_ws.py, for DetectoRS (arXiv 2006.02334).
    """

    weight_gamma: Tensor
    weight_beta: Tensor

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        shape = (self.out_channels, 1, 1, 1)
        self.register_buffer("weight_gamma", torch.ones(shape))
        self.register_buffer("weight_beta", torch.zeros(shape))

    def standardized(self) -> Tensor:
        """The filters that convolve: [O, C / groups, kh, kw]."""
        variance, mean = torch.var_mean(self.weight, (1, 2, 3), keepdim=True)
        weight = (self.weight - mean) / torch.sqrt(variance + EPS)
        return self.weight_gamma * weight + self.weight_beta

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, H, W] -> [B, O, h, w]."""
        return self._conv_forward(x, self.standardized(), self.bias)
