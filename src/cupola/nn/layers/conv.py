"""Convolution. Source: torch.nn.modules.conv.

Letters: N batch, C channels, H and W the spatial axes.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn import Parameter

from cupola.nn import init
from cupola.nn.layers.factory import Layer, empty, empty_if

Size = int | Sequence[int]

PADDING_MODES = ("zeros", "reflect", "replicate", "circular")


class ConvNd(Layer):
    """Settings and parameters of a convolution; an ``init_cfg`` names it as ``_ConvNd``.

    ``weight`` is [out_channels, in_channels / groups, *kernel_size], ``bias`` [out_channels].
    ValueError if the groups do not divide the channels, or the padding is unknown."""

    bias: Parameter | None

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
    ) -> None:
        super().__init__()
        _check_channels(in_channels, out_channels, groups)
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = _pair(kernel_size)
        self.stride = _pair(stride)
        self.padding = padding if isinstance(padding, str) else _pair(padding)
        self.dilation = _pair(dilation)
        self.groups = groups
        self.padding_mode = padding_mode
        self._check_padding()
        self._reversed_padding_repeated_twice = self._padding_of_both_ends()
        self.transposed, self.output_padding = False, (0, 0)  # as torch's have
        shape = (out_channels, in_channels // groups, *self.kernel_size)
        self.weight = empty(*shape, device=device, dtype=dtype)
        bias_values = empty_if(bias, out_channels, device=device, dtype=dtype)
        self.register_parameter("bias", bias_values)
        self.reset_parameters()

    def _check_padding(self) -> None:
        if isinstance(self.padding, str):
            if self.padding not in ("valid", "same"):
                raise ValueError(
                    f"Invalid padding string {self.padding!r}, should be one of ('valid', 'same')"
                )
            if self.padding == "same" and self.stride != (1, 1):
                raise ValueError("padding='same' is not supported for strided convolutions")
        if self.padding_mode not in PADDING_MODES:
            raise ValueError(
                f"padding_mode must be one of {PADDING_MODES}, but got '{self.padding_mode}'"
            )

    def _padding_of_both_ends(self) -> list[int]:
        """The padding as F.pad takes it: (before, after) of W, then of H."""
        if self.padding == "valid":
            return [0, 0, 0, 0]
        if isinstance(self.padding, str):  # "same": an odd total pads more at the end
            pairs = zip(reversed(self.dilation), reversed(self.kernel_size), strict=True)
            totals = [dilation * (size - 1) for dilation, size in pairs]
            return [n for total in totals for n in (total // 2, total - total // 2)]
        return [n for amount in reversed(self.padding) for n in (amount, amount)]

    def reset_parameters(self) -> None:
        """Draw weight and bias from U(-1/sqrt(fan_in), 1/sqrt(fan_in))."""
        init.uniform_by_fan_in_(self.weight, self.bias)


class Conv2d(ConvNd):
    """Convolution over [N, C, H, W]."""

    def forward(self, input: Tensor) -> Tensor:
        """[N, C_in, H, W] -> [N, C_out, H', W']."""
        return self._conv_forward(input, self.weight, self.bias)

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        padding = self.padding
        if self.padding_mode != "zeros":
            input = F.pad(input, self._reversed_padding_repeated_twice, mode=self.padding_mode)
            padding = (0, 0)
        if self.kernel_size == self.stride == (1, 1) and _prefers_onednn(input):
            sides = (0, 0) if isinstance(padding, str) else padding  # both words mean 0 here
            out: Tensor = torch.mkldnn_convolution(
                input, weight, bias, sides, self.stride, self.dilation, self.groups
            )
            return out
        return F.conv2d(input, weight, bias, self.stride, padding, self.dilation, self.groups)


def _prefers_onednn(input: Tensor) -> bool:
    """Whether torch would compute a 1x1 convolution otherwise, and slower.

    On one thread torch multiplies matrices, which takes up to twice as long as oneDNN on images
    that are laid out channels-last.
    """
    return (
        input.device.type == "cpu"
        and input.dtype == torch.float32
        and not torch.is_grad_enabled()
        and input.dim() == 4
        and torch.get_num_threads() == 1
        and input.is_contiguous(memory_format=torch.channels_last)
        and not torch.compiler.is_compiling()
        and torch._C._has_mkldnn
    )


def _pair(size: Size) -> tuple[int, ...]:
    return (size, size) if isinstance(size, int) else tuple(size)


def _check_channels(in_channels: int, out_channels: int, groups: int) -> None:
    if groups <= 0:
        raise ValueError("groups must be a positive integer")
    if in_channels % groups:
        raise ValueError("in_channels must be divisible by groups")
    if out_channels % groups:
        raise ValueError("out_channels must be divisible by groups")
