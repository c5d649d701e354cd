"""Layers that learn their input size from their first input, and then become the plain layer.

Source: torch.nn.modules.lazy, whose mix-in they use.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import UninitializedBuffer, UninitializedParameter
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import is_lazy

from cupola.nn.layers import batchnorm, conv
from cupola.nn.layers.batchnorm import NormBase
from cupola.nn.layers.conv import ConvNd, Size
from cupola.nn.layers.linear import Linear


class LazyLinear(LazyModuleMixin, Linear):
    """:class:`Linear` whose in_features is the last size of the first input."""

    cls_to_become = Linear

    def __init__(
        self,
        out_features: int,
        bias: bool = True,
        device: torch.types.Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(0, 0, False)
        self.out_features = out_features
        self.weight = _unknown(device, dtype)
        if bias:
            self.bias = _unknown(device, dtype)

    def reset_parameters(self) -> None:
        """Draw the values, once there is something to draw."""
        if not self.has_uninitialized_params() and self.in_features != 0:
            super().reset_parameters()

    def initialize_parameters(self, input: Tensor) -> None:
        """Take the sizes from an input [*, in_features]."""
        if self.has_uninitialized_params():
            with torch.no_grad():
                self.in_features = input.shape[-1]
                _materialise(self.weight, self.out_features, self.in_features)
                _materialise(self.bias, self.out_features)
                self.reset_parameters()
        if self.in_features == 0:  # materialised by loading
            self.in_features = input.shape[-1]


class LazyConv(LazyModuleMixin, ConvNd):
    """A convolution whose in_channels come from the first input [N, C, *] or [C, *]."""

    def __init__(self, out_channels: int, kernel_size: Size, *args: Any, **kwargs: Any) -> None:
        wants_bias, settings = _take_bias(self.transposed, args, kwargs)
        super().__init__(0, 0, kernel_size, **settings)
        factory = settings.get("device"), settings.get("dtype")
        self.out_channels = out_channels
        self.weight = _unknown(*factory)
        if wants_bias:
            self.bias = _unknown(*factory)

    def reset_parameters(self) -> None:
        """Draw the values, once there is something to draw."""
        if not self.has_uninitialized_params() and self.in_channels != 0:
            super().reset_parameters()

    def initialize_parameters(self, input: Tensor, *args: Any, **kwargs: Any) -> None:
        """Take the channels from an input.

        Raises:
            RuntimeError: the input has another number of axes.
            ValueError: the groups do not divide the channels.
        """
        if not self.has_uninitialized_params():
            return
        self.in_channels = self._channels_of(input)
        if self.in_channels % self.groups:
            raise ValueError("in_channels must be divisible by groups")
        first, second = self.out_channels, self.in_channels // self.groups
        if self.transposed:
            first, second = self.in_channels, self.out_channels // self.groups
        with torch.no_grad():
            _materialise(self.weight, first, second, *self.kernel_size)
            _materialise(self.bias, self.out_channels)
            self.reset_parameters()

    def _channels_of(self, input: Tensor) -> int:
        if input.dim() not in (self.dims + 1, self.dims + 2):
            raise RuntimeError(
                f"Expected {self.dims + 1}D (unbatched) or {self.dims + 2}D (batched) input to "
                f"{type(self).__name__}, but got input of size: {input.shape}"
            )
        return input.shape[-self.dims - 1]


class LazyConv1d(LazyConv, conv.Conv1d):
    """Lazy :class:`Conv1d`."""

    cls_to_become = conv.Conv1d


class LazyConv2d(LazyConv, conv.Conv2d):
    """Lazy :class:`Conv2d`."""

    cls_to_become = conv.Conv2d


class LazyConv3d(LazyConv, conv.Conv3d):
    """Lazy :class:`Conv3d`."""

    cls_to_become = conv.Conv3d


class LazyConvTranspose1d(LazyConv, conv.ConvTranspose1d):
    """Lazy :class:`ConvTranspose1d`."""

    cls_to_become = conv.ConvTranspose1d


class LazyConvTranspose2d(LazyConv, conv.ConvTranspose2d):
    """Lazy :class:`ConvTranspose2d`."""

    cls_to_become = conv.ConvTranspose2d


class LazyConvTranspose3d(LazyConv, conv.ConvTranspose3d):
    """Lazy :class:`ConvTranspose3d`."""

    cls_to_become = conv.ConvTranspose3d


class LazyNorm(LazyModuleMixin, NormBase):
    """A normalization whose num_features come from the first input [N, C, *]."""

    def __init__(
        self,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: torch.types.Device = None,
        dtype: torch.dtype | None = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__(0, eps, momentum, False, False)
        self.affine = affine
        self.track_running_stats = track_running_stats
        if affine:
            self.weight = _unknown(device, dtype)
            if bias:
                self.bias = _unknown(device, dtype)
        if track_running_stats:
            self.running_mean = _unknown(device, dtype, UninitializedBuffer)
            self.running_var = _unknown(device, dtype, UninitializedBuffer)
            self.num_batches_tracked = torch.tensor(0, dtype=torch.long, device=device)

    def reset_parameters(self) -> None:
        """Set the values, once there are any."""
        if not self.has_uninitialized_params() and self.num_features != 0:
            super().reset_parameters()

    def initialize_parameters(self, input: Tensor) -> None:
        """Take the number of channels from an input."""
        if not self.has_uninitialized_params():
            return
        self.num_features = input.shape[1]
        for tensor in (self.weight, self.bias, self.running_mean, self.running_var):
            _materialise(tensor, self.num_features)
        self.reset_parameters()


class LazyBatchNorm1d(LazyNorm, batchnorm.BatchNorm1d):
    """Lazy :class:`BatchNorm1d`."""

    cls_to_become = batchnorm.BatchNorm1d


class LazyBatchNorm2d(LazyNorm, batchnorm.BatchNorm2d):
    """Lazy :class:`BatchNorm2d`."""

    cls_to_become = batchnorm.BatchNorm2d


class LazyBatchNorm3d(LazyNorm, batchnorm.BatchNorm3d):
    """Lazy :class:`BatchNorm3d`."""

    cls_to_become = batchnorm.BatchNorm3d


class LazyInstanceNorm1d(LazyNorm, batchnorm.InstanceNorm1d):
    """Lazy :class:`InstanceNorm1d`."""

    cls_to_become = batchnorm.InstanceNorm1d


class LazyInstanceNorm2d(LazyNorm, batchnorm.InstanceNorm2d):
    """Lazy :class:`InstanceNorm2d`."""

    cls_to_become = batchnorm.InstanceNorm2d


class LazyInstanceNorm3d(LazyNorm, batchnorm.InstanceNorm3d):
    """Lazy :class:`InstanceNorm3d`."""

    cls_to_become = batchnorm.InstanceNorm3d


# The arguments after kernel_size, in torch's order.
PLAIN = ("stride", "padding", "dilation", "groups", "bias", "padding_mode", "device", "dtype")
TRANSPOSED = (
    "stride",
    "padding",
    "output_padding",
    "groups",
    "bias",
    "dilation",
    "padding_mode",
    "device",
    "dtype",
)


def _take_bias(
    transposed: bool, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[bool, dict[str, Any]]:
    """Return whether a bias is wanted, and the settings with none, so that none is allocated."""
    order = TRANSPOSED if transposed else PLAIN
    settings = dict(zip(order, args, strict=False)) | kwargs
    return settings.get("bias", True), settings | {"bias": False}


def _unknown(
    device: torch.types.Device, dtype: torch.dtype | None, kind: Any = UninitializedParameter
) -> Any:
    return kind(device=device, dtype=dtype)


def _materialise(tensor: Any, *shape: int) -> None:
    if is_lazy(tensor):
        tensor.materialize(shape)
