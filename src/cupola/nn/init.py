"""Initializers, which fill a tensor in place and return it.

They are torch's own, so that the same seed gives the same weights, except that they return a tensor
on the meta device unchanged: there is nothing to fill, and calling torch takes time.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

from torch import Tensor
from torch.nn import init as torch_init


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
