"""Initializers, which fill a tensor in place and return it.

They are torch's own, so that the same seed gives the same weights, except that they return a tensor
on the meta device unchanged: there is nothing to fill, and calling torch takes time.
"""

import math
from collections.abc import Callable
from functools import wraps
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import init as torch_init

GAIN: Final = torch_init.calculate_gain("leaky_relu", math.sqrt(5))


def uniform_by_fan_in_(weight: Tensor, bias: Tensor | None) -> None:
    """Draw both from U(-1/sqrt(fan_in), 1/sqrt(fan_in)), as torch's Linear and convolutions do.
    The weight's bound is computed as ``kaiming_uniform_(weight, a=sqrt(5))`` computes it."""
    if weight.is_meta:
        return
    if not weight.numel():
        torch_init.kaiming_uniform_(weight)  # warns that there is nothing to fill
    root = math.sqrt(weight.shape[1:].numel()) or math.inf
    with torch.no_grad():
        bound = math.sqrt(3.0) * (GAIN / root)
        weight.uniform_(-bound, bound)
        if bias is not None:
            bias.uniform_(-1 / root, 1 / root)


def _unless_meta(fill: Callable[..., Tensor]) -> Callable[..., Tensor]:
    @wraps(fill)
    def initialize(tensor: Tensor, *args: object, **kwargs: object) -> Tensor:
        return tensor if tensor.is_meta else fill(tensor, *args, **kwargs)

    return initialize


def __getattr__(name: str) -> Any:
    value = getattr(torch_init, name)
    if name.endswith("_") and not name.startswith("_"):
        value = _unless_meta(value)
    globals()[name] = value
    return value
