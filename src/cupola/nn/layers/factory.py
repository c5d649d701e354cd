"""The base of layers, and the allocation of their parameters."""

from abc import ABCMeta

import torch
from torch.nn import Parameter

from cupola.nn import meta
from cupola.nn.module import Module


class Layer(Module, metaclass=ABCMeta):
    """A module that torch.nn has, too. Torch's class counts as a virtual subclass of ours, so that
    ``isinstance`` is true for a bridged layer as well."""


def empty(
    *shape: int, device: torch.types.Device = None, dtype: torch.dtype | None = None
) -> Parameter:
    """Return a parameter of a shape, with values left to an initializer."""
    return Parameter(torch.empty(shape, device=meta.parameter_device(device), dtype=dtype))


def empty_if(
    wanted: bool,
    *shape: int,
    device: torch.types.Device = None,
    dtype: torch.dtype | None = None,
) -> Parameter | None:
    """Return :func:`empty`, or None for an optional parameter that is not wanted."""
    return empty(*shape, device=device, dtype=dtype) if wanted else None
