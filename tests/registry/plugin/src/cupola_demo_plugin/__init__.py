"""A user's own backbone for DETR: three convolutions to stride 16."""

from torch import Tensor

from cupola import nn
from cupola.registry import MODELS


@MODELS.register_module()
class DemoBackbone(nn.Module):
    """pixels [B, 3, H, W] -> one feature map [B, dim, H/16, W/16]."""

    def __init__(self, dim: int = 32) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, dim, 4, stride=4),
            nn.ReLU(),
            nn.Conv2d(dim, dim, 4, stride=4),
        )

    def forward(self, pixels: Tensor) -> tuple[Tensor]:
        return (self.body(pixels),)
