"""Scale: learned factors."""

from collections.abc import Sequence

import torch
from torch import Tensor

from cupola import nn
from cupola.registry import MODELS


@MODELS.register_module()
class Scale(nn.Module):
    """x times a learned number, or one of each channel (source: mmcv/cnn/bricks/scale.py)."""

    def __init__(self, scale: float | Sequence[float] = 1.0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale
