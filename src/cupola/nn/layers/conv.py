"""Convolutions. Source: torch.nn.modules.conv.

Letters: N batch, C channels, L / (H, W) / (D, H, W) the spatial axes.
"""

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn import Parameter

from cupola.nn import init
from cupola.nn.layers.factory import empty
from cupola.nn.module import Module

Size = int | Sequence[int]

PADDING_MODES = ("zeros", "reflect", "replicate", "circular")


def expand(size: Size, dims: int) -> tuple[int, ...]:
    """Return one number as many times as there are axes, or a sequence as a tuple."""
    return (size,) * dims if isinstance(size, int) else tuple(size)


class ConvNd(Module):
    """What all convolutions share: settings, checks, weights, printing.

    ``weight`` is [out_channels, in_channels / groups, *kernel_size]; transposed convolutions
    exchange the first two.

    Raises:
        ValueError: channels that the groups do not divide, or an unknown padding.
    """

    dims: ClassVar[int]
    bias: Parameter | None
    transposed: bool = False

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size | str = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: torch.types.Device = None,
        dtype: torch.dtype | None = None,
        *,
        output_padding: Size = 0,
    ) -> None:
        super().__init__()
        _check(in_channels, out_channels, groups, padding, stride, padding_mode)
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = expand(kernel_size, self.dims)
        self.stride = expand(stride, self.dims)
        self.padding = padding if isinstance(padding, str) else expand(padding, self.dims)
        self.dilation = expand(dilation, self.dims)
        self.output_padding = expand(output_padding, self.dims)
        self.groups = groups
        self.padding_mode = padding_mode
        self._reversed_padding_repeated_twice = self._pad_amounts()
        channels = (out_channels, in_channels // groups)
        if self.transposed:
            channels = (in_channels, out_channels // groups)
        self.weight = empty(*channels, *self.kernel_size, device=device, dtype=dtype)
        bias_values = empty(out_channels, device=device, dtype=dtype) if bias else None
        self.register_parameter("bias", bias_values)
        self.reset_parameters()

    def _pad_amounts(self) -> list[int]:
        """Return what F.pad takes: (before, after) of each axis, the last axis first."""
        if self.padding == "valid":
            return [0] * (2 * self.dims)
        if isinstance(self.padding, str):  # "same": the odd one goes behind
            totals = [d * (k - 1) for d, k in zip(self.dilation, self.kernel_size, strict=True)]
            return [n for total in reversed(totals) for n in (total // 2, total - total // 2)]
        return [n for pad in reversed(self.padding) for n in (pad, pad)]

    def reset_parameters(self) -> None:
        """Draw weight and bias from U(-1/sqrt(fan_in), 1/sqrt(fan_in))."""
        init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            fan_in, _ = init._calculate_fan_in_and_fan_out(self.weight)
            if fan_in:
                bound = 1 / math.sqrt(fan_in)
                init.uniform_(self.bias, -bound, bound)

    def _pad(self, input: Tensor) -> tuple[Tensor, tuple[int, ...] | str]:
        """Return the input and the padding that is left for the convolution to do."""
        if self.padding_mode == "zeros":
            return input, self.padding
        pads = self._reversed_padding_repeated_twice
        return F.pad(input, pads, mode=self.padding_mode), (0,) * self.dims

    def extra_repr(self) -> str:
        parts = [
            f"{self.in_channels}, {self.out_channels}",
            f"kernel_size={self.kernel_size}, stride={self.stride}",
        ]
        zeros = (0,) * self.dims
        if self.padding != zeros:
            parts.append(f"padding={self.padding}")
        if self.dilation != (1,) * self.dims:
            parts.append(f"dilation={self.dilation}")
        if self.output_padding != zeros:
            parts.append(f"output_padding={self.output_padding}")
        if self.groups != 1:
            parts.append(f"groups={self.groups}")
        if self.bias is None:
            parts.append("bias=False")
        if self.padding_mode != "zeros":
            parts.append(f"padding_mode={self.padding_mode}")
        return ", ".join(parts)


class Conv1d(ConvNd):
    """Convolution over [N, C, L]."""

    dims = 1

    def forward(self, input: Tensor) -> Tensor:
        """[N, C_in, L] -> [N, C_out, L']."""
        return self._conv_forward(input, self.weight, self.bias)

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        input, padding = self._pad(input)
        return F.conv1d(input, weight, bias, self.stride, padding, self.dilation, self.groups)


class Conv2d(ConvNd):
    """Convolution over [N, C, H, W]."""

    dims = 2

    def forward(self, input: Tensor) -> Tensor:
        """[N, C_in, H, W] -> [N, C_out, H', W']."""
        return self._conv_forward(input, self.weight, self.bias)

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        input, padding = self._pad(input)
        return F.conv2d(input, weight, bias, self.stride, padding, self.dilation, self.groups)


class Conv3d(ConvNd):
    """Convolution over [N, C, D, H, W]."""

    dims = 3

    def forward(self, input: Tensor) -> Tensor:
        """[N, C_in, D, H, W] -> [N, C_out, D', H', W']."""
        return self._conv_forward(input, self.weight, self.bias)

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        input, padding = self._pad(input)
        return F.conv3d(input, weight, bias, self.stride, padding, self.dilation, self.groups)


class ConvTransposeNd(ConvNd):
    """What transposed convolutions share: the argument order of torch, and the output size."""

    transposed = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size = 0,
        output_padding: Size = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Size = 1,
        padding_mode: str = "zeros",
        device: torch.types.Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if padding_mode != "zeros":
            raise ValueError(f'Only "zeros" padding mode is supported for {type(self).__name__}')
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            bias,
            padding_mode,
            device,
            dtype,
            output_padding=output_padding,
        )

    def _amounts(self) -> tuple[int, ...]:
        assert not isinstance(self.padding, str), "only convolutions pad by name"
        return self.padding

    def _output_padding(self, input: Tensor, output_size: Sequence[int] | None) -> tuple[int, ...]:
        """Return the padding that makes the output as large as asked.

        Raises:
            ValueError: an output size with the wrong number of axes, or out of reach.
        """
        if output_size is None:
            return self.output_padding
        sizes = list(output_size)
        if len(sizes) == self.dims + 2 or len(sizes) == input.dim():
            sizes = sizes[-self.dims :]
        if len(sizes) != self.dims:
            raise ValueError(
                f"{type(self).__name__}: for {input.dim()}D input, output_size must have "
                f"{self.dims} or {input.dim()} elements (got {len(output_size)})"
            )
        padding, extents = self._amounts(), input.shape[-self.dims :]
        least = [
            (extents[i] - 1) * self.stride[i]
            - 2 * padding[i]
            + self.dilation[i] * (self.kernel_size[i] - 1)
            + 1
            for i in range(self.dims)
        ]
        most = [low + stride - 1 for low, stride in zip(least, self.stride, strict=True)]
        if any(not low <= n <= high for low, n, high in zip(least, sizes, most, strict=True)):
            raise ValueError(
                f"requested an output size of {sizes}, but valid sizes range from {least} to "
                f"{most} (for an input of {list(extents)})"
            )
        return tuple(n - low for n, low in zip(sizes, least, strict=True))


class ConvTranspose1d(ConvTransposeNd):
    """Transposed convolution over [N, C, L]."""

    dims = 1

    def forward(self, input: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """[N, C_in, L] -> [N, C_out, L']."""
        extra = self._output_padding(input, output_size)
        return F.conv_transpose1d(
            input,
            self.weight,
            self.bias,
            self.stride,
            self._amounts(),
            extra,
            self.groups,
            self.dilation,
        )


class ConvTranspose2d(ConvTransposeNd):
    """Transposed convolution over [N, C, H, W]."""

    dims = 2

    def forward(self, input: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """[N, C_in, H, W] -> [N, C_out, H', W']."""
        extra = self._output_padding(input, output_size)
        return F.conv_transpose2d(
            input,
            self.weight,
            self.bias,
            self.stride,
            self._amounts(),
            extra,
            self.groups,
            self.dilation,
        )


class ConvTranspose3d(ConvTransposeNd):
    """Transposed convolution over [N, C, D, H, W]."""

    dims = 3

    def forward(self, input: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """[N, C_in, D, H, W] -> [N, C_out, D', H', W']."""
        extra = self._output_padding(input, output_size)
        return F.conv_transpose3d(
            input,
            self.weight,
            self.bias,
            self.stride,
            self._amounts(),
            extra,
            self.groups,
            self.dilation,
        )


def _check(
    in_channels: int, out_channels: int, groups: int, padding: Size | str, stride: Size, mode: str
) -> None:
    if groups <= 0:
        raise ValueError("groups must be a positive integer")
    if in_channels % groups:
        raise ValueError("in_channels must be divisible by groups")
    if out_channels % groups:
        raise ValueError("out_channels must be divisible by groups")
    if isinstance(padding, str):
        if padding not in ("valid", "same"):
            raise ValueError(
                f"Invalid padding string {padding!r}, should be one of ('valid', 'same')"
            )
        strides = (stride,) if isinstance(stride, int) else stride
        if padding == "same" and any(s != 1 for s in strides):
            raise ValueError("padding='same' is not supported for strided convolutions")
    if mode not in PADDING_MODES:
        raise ValueError(f"padding_mode must be one of {PADDING_MODES}, but got '{mode}'")
