"""The base of layers, and the allocation of their parameters."""

from abc import ABCMeta
from typing import Any, Final

import torch
from torch.nn import Parameter

from cupola.nn import meta
from cupola.nn.module import Module

LAYERS: Final = "cupola.nn.layers."


class Layer(Module, metaclass=ABCMeta):
    """A module that torch.nn has, too. Torch's class counts as a virtual subclass of ours, so that
    ``isinstance`` is true for a bridged layer as well."""

    def extra_repr(self) -> str:
        """The text that torch's layer has between its parentheses."""
        names = [cls.__name__ for cls in type(self).__mro__ if cls.__module__.startswith(LAYERS)]
        found = (getattr(torch.nn, name) for name in names if hasattr(torch.nn, name))
        layer: Any = next(found, torch.nn.Module)
        text: str = layer.extra_repr(self)
        return text


def empty(
    *shape: int, device: torch.types.Device = None, dtype: torch.dtype | None = None
) -> Parameter:
    """Return a parameter of a shape, with values left to an initializer."""
    device = meta.parameter_device(device)
    if device is None and dtype is None:
        return Parameter(torch.empty(shape))  # takes half the time
    return Parameter(torch.empty(shape, device=device, dtype=dtype))


def empty_if(
    wanted: bool,
    *shape: int,
    device: torch.types.Device = None,
    dtype: torch.dtype | None = None,
) -> Parameter | None:
    """Return :func:`empty`, or None for an optional parameter that is not wanted."""
    return empty(*shape, device=device, dtype=dtype) if wanted else None
