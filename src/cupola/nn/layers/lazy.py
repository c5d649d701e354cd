"""Lazy layers, which take their input size from their first input.

Until then they are torch.nn's; then they become the layers of this package.
"""

from typing import Any

import torch
from torch.nn.modules.lazy import LazyModuleMixin

from cupola.nn.layers.batchnorm import BatchNorm1d, BatchNorm2d
from cupola.nn.layers.conv import Conv2d
from cupola.nn.layers.linear import Linear
from cupola.nn.traversal import layout


class BecomesCupola(LazyModuleMixin):
    """A lazy layer of torch.nn whose ``cls_to_become`` is a cupola class."""

    def _infer_parameters(self: Any, module: Any, args: Any, kwargs: Any = None) -> None:
        values, kinds = layout(module)
        super()._infer_parameters(module, args, kwargs)  # type: ignore[misc]
        for name in ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"):
            del module.__dict__[name]
        # The call in progress is torch's and reads the hook tables, so they stay.
        module.__dict__.update(values, _kinds=kinds, _hooked=True)
        module.__dict__.pop("cls_to_become", None)  # that of a lazy layer in a bridged tree


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
