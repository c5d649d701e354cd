"""Pooling. Source: torch.nn.modules.pooling. Sizes are one number or one for each axis."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor

from cupola.nn.module import Module

Size = int | Sequence[int]


class MaxPoolNd(Module):
    """The largest value of each window; ``return_indices`` gives its place too."""

    pool: ClassVar[Callable[..., Any]]

    def __init__(
        self,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size = 0,
        dilation: Size = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.stride = kernel_size if stride is None else stride
        self.padding = padding
        self.dilation = dilation
        self.return_indices = return_indices
        self.ceil_mode = ceil_mode

    def forward(self, input: Tensor) -> Any:
        """[N, C, *] -> [N, C, *'], with indices of the same shape if they are asked for."""
        return type(self).pool(
            input,
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
            ceil_mode=self.ceil_mode,
            return_indices=self.return_indices,
        )

    def extra_repr(self) -> str:
        return (
            f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}, "
            f"dilation={self.dilation}, ceil_mode={self.ceil_mode}"
        )


class MaxPool1d(MaxPoolNd):
    """Max pooling over [N, C, L]."""

    pool = F.max_pool1d


class MaxPool2d(MaxPoolNd):
    """Max pooling over [N, C, H, W]."""

    pool = F.max_pool2d


class MaxPool3d(MaxPoolNd):
    """Max pooling over [N, C, D, H, W]."""

    pool = F.max_pool3d


class MaxUnpoolNd(Module):
    """Put values back where max pooling took them from, zeros elsewhere."""

    unpool: ClassVar[Callable[..., Any]]
    dims: ClassVar[int]

    def __init__(self, kernel_size: Size, stride: Size | None = None, padding: Size = 0) -> None:
        super().__init__()
        self.kernel_size = _expand(kernel_size, self.dims)
        self.stride = self.kernel_size if stride is None else _expand(stride, self.dims)
        self.padding = _expand(padding, self.dims)

    def forward(
        self, input: Tensor, indices: Tensor, output_size: Sequence[int] | None = None
    ) -> Tensor:
        """[N, C, *'] and indices of that shape -> [N, C, *]."""
        output: Tensor = type(self).unpool(
            input, indices, self.kernel_size, self.stride, self.padding, output_size
        )
        return output

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class MaxUnpool1d(MaxUnpoolNd):
    """Inverse of :class:`MaxPool1d`."""

    unpool, dims = F.max_unpool1d, 1


class MaxUnpool2d(MaxUnpoolNd):
    """Inverse of :class:`MaxPool2d`."""

    unpool, dims = F.max_unpool2d, 2


class MaxUnpool3d(MaxUnpoolNd):
    """Inverse of :class:`MaxPool3d`."""

    unpool, dims = F.max_unpool3d, 3


class AvgPool1d(Module):
    """The mean of each window over [N, C, L]."""

    def __init__(
        self,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> None:
        super().__init__()
        self.kernel_size = _expand(kernel_size, 1)
        self.stride = self.kernel_size if stride is None else _expand(stride, 1)
        self.padding = _expand(padding, 1)
        self.ceil_mode = ceil_mode
        self.count_include_pad = count_include_pad

    def forward(self, input: Tensor) -> Tensor:
        """[N, C, L] -> [N, C, L']."""
        return F.avg_pool1d(
            input,
            self.kernel_size,
            self.stride,
            self.padding,
            self.ceil_mode,
            self.count_include_pad,
        )

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class AvgPoolNd(Module):
    """The mean of each window; ``divisor_override`` divides by another number."""

    pool: ClassVar[Callable[..., Any]]

    def __init__(
        self,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.stride = kernel_size if stride is None else stride
        self.padding = padding
        self.ceil_mode = ceil_mode
        self.count_include_pad = count_include_pad
        self.divisor_override = divisor_override

    def forward(self, input: Tensor) -> Tensor:
        """[N, C, *] -> [N, C, *']."""
        output: Tensor = type(self).pool(
            input,
            self.kernel_size,
            self.stride,
            self.padding,
            self.ceil_mode,
            self.count_include_pad,
            self.divisor_override,
        )
        return output

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class AvgPool2d(AvgPoolNd):
    """Average pooling over [N, C, H, W]."""

    pool = F.avg_pool2d


class AvgPool3d(AvgPoolNd):
    """Average pooling over [N, C, D, H, W]."""

    pool = F.avg_pool3d


class LPPoolNd(Module):
    """The power mean of each window, with exponent ``norm_type``."""

    pool: ClassVar[Callable[..., Any]]

    def __init__(
        self,
        norm_type: float,
        kernel_size: Size,
        stride: Size | None = None,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__()
        self.norm_type = norm_type
        self.kernel_size = kernel_size
        self.stride = stride
        self.ceil_mode = ceil_mode

    def forward(self, input: Tensor) -> Tensor:
        """[N, C, *] -> [N, C, *']."""
        output: Tensor = type(self).pool(
            input, float(self.norm_type), self.kernel_size, self.stride, self.ceil_mode
        )
        return output

    def extra_repr(self) -> str:
        return (
            f"norm_type={self.norm_type}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"ceil_mode={self.ceil_mode}"
        )


class LPPool1d(LPPoolNd):
    """Power-mean pooling over [N, C, L]."""

    pool = F.lp_pool1d


class LPPool2d(LPPoolNd):
    """Power-mean pooling over [N, C, H, W]."""

    pool = F.lp_pool2d


class LPPool3d(LPPoolNd):
    """Power-mean pooling over [N, C, D, H, W]."""

    pool = F.lp_pool3d


class AdaptivePoolNd(Module):
    """Pool to a given output size, whatever the input's; None keeps an axis."""

    pool: ClassVar[Callable[..., Any]]

    def __init__(self, output_size: Any) -> None:
        super().__init__()
        self.output_size = output_size

    def forward(self, input: Tensor) -> Any:
        """[N, C, *] -> [N, C, *output_size]."""
        return type(self).pool(input, self.output_size)

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}"


class AdaptiveAvgPool1d(AdaptivePoolNd):
    """Average pooling over [N, C, L] to a given length."""

    pool = F.adaptive_avg_pool1d


class AdaptiveAvgPool2d(AdaptivePoolNd):
    """Average pooling over [N, C, H, W] to a given size."""

    pool = F.adaptive_avg_pool2d


class AdaptiveAvgPool3d(AdaptivePoolNd):
    """Average pooling over [N, C, D, H, W] to a given size."""

    pool = F.adaptive_avg_pool3d


class AdaptiveMaxPoolNd(AdaptivePoolNd):
    """Max pooling to a given output size."""

    def __init__(self, output_size: Any, return_indices: bool = False) -> None:
        super().__init__(output_size)
        self.return_indices = return_indices

    def forward(self, input: Tensor) -> Any:
        """[N, C, *] -> [N, C, *output_size], with indices if they are asked for."""
        return type(self).pool(input, self.output_size, self.return_indices)


class AdaptiveMaxPool1d(AdaptiveMaxPoolNd):
    """Max pooling over [N, C, L] to a given length."""

    pool = F.adaptive_max_pool1d


class AdaptiveMaxPool2d(AdaptiveMaxPoolNd):
    """Max pooling over [N, C, H, W] to a given size."""

    pool = F.adaptive_max_pool2d


class AdaptiveMaxPool3d(AdaptiveMaxPoolNd):
    """Max pooling over [N, C, D, H, W] to a given size."""

    pool = F.adaptive_max_pool3d


def _expand(size: Size, dims: int) -> tuple[int, ...]:
    return (size,) * dims if isinstance(size, int) else tuple(size)
