"""Lazy layers, which take their input size from their first input.

Until then they are torch.nn's; then they become the layers of this package.
"""

from typing import Any

import torch
from torch.nn.modules.lazy import LazyModuleMixin

from cupola.nn.layers.batchnorm import BatchNorm1d, BatchNorm2d
from cupola.nn.layers.conv import Conv2d
from cupola.nn.layers.linear import Linear
from cupola.nn.members import FROM_CUPOLA
from cupola.nn.module import Module


class BecomesCupola(LazyModuleMixin):
    """A lazy layer of torch.nn whose ``cls_to_become`` is a cupola class, or in a bridged tree
    the class of torch."""

    def _infer_parameters(self: Any, module: Any, args: Any, kwargs: Any = None) -> None:
        super()._infer_parameters(module, args, kwargs)  # type: ignore[misc]
        state = module.__dict__.copy()
        if state.pop("cls_to_become", None) is None:
            module.__dict__.clear()
            Module.__setstate__(module, state)
        else:
            del module.__dict__["cls_to_become"]
            module.__dict__[FROM_CUPOLA] = True


class LazyLinear(BecomesCupola, torch.nn.LazyLinear):
    """:class:`Linear` whose in_features is the last size of the first input."""

    cls_to_become: Any = Linear


class LazyConv2d(BecomesCupola, torch.nn.LazyConv2d):  # type: ignore[misc]
    """:class:`Conv2d` whose in_channels come from the first input [N, C, H, W] or [C, H, W]."""

    cls_to_become: Any = Conv2d


class LazyBatchNorm1d(BecomesCupola, torch.nn.LazyBatchNorm1d):
    """:class:`BatchNorm1d` whose num_features come from the first input [N, C] or [N, C, L]."""

    cls_to_become: Any = BatchNorm1d


class LazyBatchNorm2d(BecomesCupola, torch.nn.LazyBatchNorm2d):
    """:class:`BatchNorm2d` whose num_features come from the first input [N, C, H, W]."""

    cls_to_become: Any = BatchNorm2d
