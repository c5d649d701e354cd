"""Linear maps. Source: torch.nn.modules.linear."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn import Parameter

from cupola.nn import init
from cupola.nn.layers.factory import Layer, empty, empty_if


class Identity(Layer):
    """Return the input. Accepts the arguments of any layer that it replaces."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()

    def forward(self, input: Tensor) -> Tensor:
        """[*] -> [*]."""
        return input


class Linear(Layer):
    """y = x A^T + b. ``weight`` is [out_features, in_features], ``bias`` [out_features]."""

    bias: Parameter | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: torch.types.Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.weight = empty(out_features, in_features, device=device, dtype=dtype)
        bias_values = empty_if(bias, out_features, device=device, dtype=dtype)
        self.register_parameter("bias", bias_values)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weight and bias from U(-1/sqrt(in_features), 1/sqrt(in_features))."""
        init.uniform_by_fan_in_(self.weight, self.bias)

    def forward(self, input: Tensor) -> Tensor:
        """[*, in_features] -> [*, out_features]."""
        return F.linear(input, self.weight, self.bias)
