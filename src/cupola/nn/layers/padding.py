"""Padding of the last one, two or three axes. Source: torch.nn.modules.padding.

``padding`` is one number, or (before, after) of each axis, the last axis first.
"""

from collections.abc import Sequence
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from cupola.nn.layers.batchnorm import require_dim
from cupola.nn.module import Module


class PadNd(Module):
    """Pad in the mode of the class."""

    dims: ClassVar[int]
    mode: ClassVar[str]

    def __init__(self, padding: int | Sequence[int]) -> None:
        super().__init__()
        if isinstance(padding, int):
            padding = (padding,) * (2 * self.dims)
        self.padding = tuple(padding)

    def forward(self, input: Tensor) -> Tensor:
        """[*, spatial axes] -> the same, larger."""
        return F.pad(input, self.padding, self.mode)

    def extra_repr(self) -> str:
        return f"{self.padding}"


class ConstantPadNd(PadNd):
    """Pad with a value."""

    mode = "constant"

    def __init__(self, padding: int | Sequence[int], value: float) -> None:
        super().__init__(padding)
        self.value = value

    def forward(self, input: Tensor) -> Tensor:
        """[*, spatial axes] -> the same, larger."""
        return F.pad(input, self.padding, "constant", self.value)

    def extra_repr(self) -> str:
        return f"padding={self.padding}, value={self.value}"


class ZeroPadNd(ConstantPadNd):
    """Pad with zeros."""

    def __init__(self, padding: int | Sequence[int]) -> None:
        super().__init__(padding, 0.0)

    def extra_repr(self) -> str:
        return f"{self.padding}"


class ConstantPad1d(ConstantPadNd):
    """Pad [N, C, L] with a value."""

    dims = 1


class ConstantPad2d(ConstantPadNd):
    """Pad [N, C, H, W] with a value."""

    dims = 2


class ConstantPad3d(ConstantPadNd):
    """Pad [N, C, D, H, W] with a value."""

    dims = 3


class ZeroPad1d(ZeroPadNd):
    """Pad [N, C, L] with zeros."""

    dims = 1


class ZeroPad2d(ZeroPadNd):
    """Pad [N, C, H, W] with zeros."""

    dims = 2


class ZeroPad3d(ZeroPadNd):
    """Pad [N, C, D, H, W] with zeros."""

    dims = 3


class ReflectionPad1d(PadNd):
    """Pad [N, C, L] by reflection."""

    dims = 1
    mode = "reflect"


class ReflectionPad2d(PadNd):
    """Pad [N, C, H, W] by reflection."""

    dims = 2
    mode = "reflect"


class ReflectionPad3d(PadNd):
    """Pad [N, C, D, H, W] by reflection."""

    dims = 3
    mode = "reflect"


class ReplicationPad1d(PadNd):
    """Pad [N, C, L] with the edge."""

    dims = 1
    mode = "replicate"


class ReplicationPad2d(PadNd):
    """Pad [N, C, H, W] with the edge."""

    dims = 2
    mode = "replicate"


class ReplicationPad3d(PadNd):
    """Pad [N, C, D, H, W] with the edge."""

    dims = 3
    mode = "replicate"


class CircularPadNd(PadNd):
    """Pad with the other end; ValueError for an input with other axes than [N, C, *] or [C, *]."""

    mode = "circular"

    def forward(self, input: Tensor) -> Tensor:
        """[*, spatial axes] -> the same, larger."""
        require_dim(input, self.dims + 1, self.dims + 2)
        return super().forward(input)


class CircularPad1d(CircularPadNd):
    """Pad [N, C, L] with the other end."""

    dims = 1


class CircularPad2d(CircularPadNd):
    """Pad [N, C, H, W] with the other end."""

    dims = 2


class CircularPad3d(CircularPadNd):
    """Pad [N, C, D, H, W] with the other end."""

    dims = 3
