"""Normalization over features or groups of channels. Source: torch.nn.modules.normalization."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn import Parameter

from cupola.nn import init
from cupola.nn.layers.factory import Layer, empty_if


class AffineNorm(Layer):
    """A normalization with an optional ``weight`` that starts as ones and ``bias`` as zeros."""

    weight: Parameter | None
    bias: Parameter | None

    def _allocate(
        self,
        affine: bool,
        bias: bool,
        *shape: int,
        device: torch.types.Device,
        dtype: torch.dtype | None,
    ) -> None:
        for name, wanted in (("weight", affine), ("bias", affine and bias)):
            values = empty_if(wanted, *shape, device=device, dtype=dtype)
            self.register_parameter(name, values)

    def reset_parameters(self) -> None:
        """Set weight to one and bias to zero."""
        if self.weight is not None:
            init.ones_(self.weight)
        if getattr(self, "bias", None) is not None:
            init.zeros_(self.bias)


class LayerNorm(AffineNorm):
    """Normalize over the last axes (Ba et al. 2016). ``weight`` and ``bias`` have their shape."""

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        device: torch.types.Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.normalized_shape = shape = _as_shape(normalized_shape)
        self.eps = eps
        self.elementwise_affine = elementwise_affine
        self._allocate(elementwise_affine, bias, *shape, device=device, dtype=dtype)
        self.reset_parameters()

    def forward(self, input: Tensor) -> Tensor:
        """[*, normalized_shape] -> the same."""
        return F.layer_norm(input, self.normalized_shape, self.weight, self.bias, self.eps)


class RMSNorm(AffineNorm):
    """Divide by the root mean square over the last axes (Zhang and Sennrich 2019)."""

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float | None = None,
        elementwise_affine: bool = True,
        device: torch.types.Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.normalized_shape = shape = _as_shape(normalized_shape)
        self.eps = eps
        self.elementwise_affine = affine = elementwise_affine
        self.register_parameter("weight", empty_if(affine, *shape, device=device, dtype=dtype))
        self.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        """[*, normalized_shape] -> the same."""
        return F.rms_norm(x, self.normalized_shape, self.weight, self.eps)


class GroupNorm(AffineNorm):
    """Normalize over groups of channels (Wu and He 2018). ``weight`` is [num_channels]. ValueError
    if the groups do not divide the channels."""

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        device: torch.types.Device = None,
        dtype: torch.dtype | None = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__()
        if num_channels % num_groups:
            raise ValueError(
                f"num_channels ({num_channels}) must be divisible by num_groups ({num_groups})"
            )
        self.num_groups = num_groups
        self.num_channels = num_channels
        self.eps = eps
        self.affine = affine
        self._allocate(affine, bias, num_channels, device=device, dtype=dtype)
        self.reset_parameters()

    def forward(self, input: Tensor) -> Tensor:
        """[N, num_channels, *] -> the same."""
        return F.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)


def _as_shape(size: int | Sequence[int]) -> tuple[int, ...]:
    return (size,) if isinstance(size, int) else tuple(size)
