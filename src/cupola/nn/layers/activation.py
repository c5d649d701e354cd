"""Activations. They keep the shape of their input. Source: torch.nn.modules.activation."""

import torch
import torch.nn.functional as F
from torch import Tensor

from cupola.nn.layers.factory import Layer


class InplaceActivation(Layer):
    """An activation whose only setting is whether it overwrites its input."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.inplace = inplace


class ReLU(InplaceActivation):
    """max(x, 0)."""

    def forward(self, input: Tensor) -> Tensor:
        """[*] -> [*]."""
        return F.relu(input, inplace=self.inplace)


class SiLU(InplaceActivation):
    """x * sigmoid(x) (Elfwing et al. 2017)."""

    def forward(self, input: Tensor) -> Tensor:
        """[*] -> [*]."""
        return F.silu(input, inplace=self.inplace)


class LeakyReLU(Layer):
    """x, or negative_slope * x for negative x."""

    def __init__(self, negative_slope: float = 1e-2, inplace: bool = False) -> None:
        super().__init__()
        self.negative_slope = negative_slope
        self.inplace = inplace

    def forward(self, input: Tensor) -> Tensor:
        """[*] -> [*]."""
        return F.leaky_relu(input, self.negative_slope, self.inplace)


class GELU(Layer):
    """x * Phi(x) (Hendrycks and Gimpel 2016); approximate='tanh' is the faster form."""

    def __init__(self, approximate: str = "none") -> None:
        super().__init__()
        self.approximate = approximate

    def forward(self, input: Tensor) -> Tensor:
        """[*] -> [*]."""
        return F.gelu(input, approximate=self.approximate)


class Sigmoid(Layer):
    """1 / (1 + exp(-x))."""

    def forward(self, input: Tensor) -> Tensor:
        """[*] -> [*]."""
        return torch.sigmoid(input)


class Tanh(Layer):
    """tanh(x)."""

    def forward(self, input: Tensor) -> Tensor:
        """[*] -> [*]."""
        return torch.tanh(input)
