"""Conv2dAdaptivePadding: a convolution whose padding keeps ceil(size / stride) cells."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from cupola import nn
from cupola.registry import MODELS


@MODELS.register_module()
class Conv2dAdaptivePadding(nn.Conv2d):
    """x [B, C, H, W] -> [B, O, ceil(H / stride), ceil(W / stride)], as TensorFlow's "same".

    Zeros are added on all sides, the odd one at the right and the bottom; `padding` is ignored.
    Source: mmcv/cnn/bricks/conv2d_adaptive_padding.py.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        **settings: Any,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding=0, **settings)

    def forward(self, x: Tensor) -> Tensor:
        padding = []
        for axis in (1, 0):  # F.pad begins with the last axis
            size, stride = x.shape[2 + axis], self.stride[axis]
            reach = (self.kernel_size[axis] - 1) * self.dilation[axis] + 1
            missing = max((size + stride - 1) // stride * stride - stride + reach - size, 0)
            padding += [missing // 2, missing - missing // 2]
        return super().forward(F.pad(x, padding) if any(padding) else x)
