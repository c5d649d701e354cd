"""DenseDepthNet: the depth of every cell, which only training asks for.

Letters: B samples, N cameras, C channels.
"""

from collections.abc import Sequence

from torch import Tensor

from cupola import nn
from cupola.registry import MODELS


@MODELS.register_module()
class DenseDepthNet(nn.Module):
    """Depths of the cells of the first `num_depth_layers` maps. Source: blocks.py of Sparse4D."""

    def __init__(
        self,
        embed_dims: int = 256,
        num_depth_layers: int = 1,
        equal_focal: float = 100,
        max_depth: float = 60,
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.equal_focal, self.max_depth, self.loss_weight = equal_focal, max_depth, loss_weight
        self.depth_layers = nn.ModuleList(
            [nn.Conv2d(embed_dims, 1, 1) for _ in range(num_depth_layers)]
        )

    def forward(self, levels: Sequence[Tensor], focal: Tensor | None = None) -> list[Tensor]:
        """Maps [B, N, C, h, w] -> depths [B * N, 1, h, w] in meters.

        focal: [B, N], focal lengths in pixels; by default `equal_focal`, the unit of the output.
        """
        found = []
        for level, layer in zip(levels, self.depth_layers, strict=False):
            depth = layer(level.flatten(0, 1)).exp()
            if focal is not None:
                depth = depth * focal.reshape(-1, 1, 1, 1) / self.equal_focal
            found.append(depth)
        return found
