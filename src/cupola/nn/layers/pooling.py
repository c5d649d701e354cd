"""Max pooling. Source: torch.nn.modules.pooling."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from cupola.nn.layers.factory import Layer

Size = int | tuple[int, ...]


class MaxPool2d(Layer):
    """The largest value of each window of [N, C, H, W]; ``return_indices`` adds its position."""

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
        """[N, C, H, W] -> [N, C, H', W'], with indices of the same shape on request."""
        return F.max_pool2d(  # type: ignore[call-overload]
            input,
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
            ceil_mode=self.ceil_mode,
            return_indices=self.return_indices,
        )
