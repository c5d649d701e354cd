"""GridHead: a map of where each point of a grid is.

Letters: R regions, G points, D channels of a point, m side of a map.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cupola import nn
from cupola.models.grid_rcnn.points import GridPoints
from cupola.models.layers import ConvModule
from cupola.registry import MODELS
from cupola.registry.budget import reserve

Config = Mapping[str, Any]
NORM: Config = {"type": "GN", "num_groups": 36}
LOSS: Config = {"type": "CrossEntropyLoss", "use_sigmoid": True, "loss_weight": 15}
INITIAL = [
    {"type": "Kaiming", "layer": ["Conv2d", "Linear"]},
    {
        "type": "Normal",
        "layer": "ConvTranspose2d",
        "std": 0.001,
        "override": {"type": "Normal", "name": "deconv2", "std": 0.001, "bias": -math.log(99)},
    },
]


@MODELS.register_module()
class GridHead(nn.Module):
    """Convolutions to features of each point, which take up their neighbors' twice, then maps.

    Source: paper, section 3; mmdet/models/roi_heads/mask_heads/grid_head.py.
    """

    def __init__(
        self,
        grid_points: int = 9,
        num_convs: int = 8,
        roi_feat_size: int = 14,
        in_channels: int = 256,
        conv_kernel_size: int = 3,
        point_feat_channels: int = 64,
        deconv_kernel_size: int = 4,
        class_agnostic: bool = False,
        loss_grid: Config = LOSS,
        conv_cfg: Config | None = None,
        norm_cfg: Config | None = NORM,
        init_cfg: Any = None,
    ) -> None:
        super().__init__()
        self.init_cfg = init_cfg or INITIAL
        self.points = GridPoints(grid_points, roi_feat_size * 4)
        reserve(8 * grid_points + num_convs)
        channels = point_feat_channels * grid_points
        self.convs = nn.Sequential(
            *(
                ConvModule(
                    channels if i else in_channels,
                    channels,
                    conv_kernel_size,
                    stride=1 if i else 2,
                    padding=(conv_kernel_size - 1) // 2,
                    conv_cfg=conv_cfg,
                    norm_cfg=norm_cfg,
                    bias=True,
                )
                for i in range(num_convs)
            )
        )
        up: dict[str, Any] = {
            "kernel_size": deconv_kernel_size,
            "stride": 2,
            "padding": (deconv_kernel_size - 2) // 2,
            "groups": grid_points,
        }
        self.deconv1 = nn.ConvTranspose2d(channels, channels, **up)
        self.norm1 = nn.GroupNorm(grid_points, channels)
        self.deconv2 = nn.ConvTranspose2d(channels, grid_points, **up)
        self.forder_trans = self._transitions(point_feat_channels)
        self.sorder_trans = self._transitions(point_feat_channels)
        self.loss_grid = MODELS.build(loss_grid)

    def _transitions(self, channels: int) -> nn.ModuleList:
        """For each point, a depthwise and a 1x1 convolution for each of its neighbors."""
        return nn.ModuleList(
            nn.ModuleList(
                nn.Sequential(
                    nn.Conv2d(channels, channels, 5, padding=2, groups=channels),
                    nn.Conv2d(channels, channels, 1),
                )
                for _ in self.points.neighbors(point)
            )
            for point in range(self.points.count)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Regions [R, in_channels, h, h] -> logits [R, G, m, m], m = 2 * h."""
        return self.maps(self.fused(self.convs(x)))

    def maps(self, x: Tensor) -> Tensor:
        """Features of the points [R, G * D, h, h] -> logits [R, G, m, m]."""
        return self.deconv2(F.relu(self.norm1(self.deconv1(x))))

    def fused(self, x: Tensor) -> Tensor:
        """Features of the points, joined with those of neighbors of first and second order."""
        own = first = x.chunk(self.points.count, 1)
        for transitions in (self.forder_trans, self.sorder_trans):
            first = tuple(
                own[point]
                + sum(
                    layer(first[near])
                    for layer, near in zip(layers, self.points.neighbors(point), strict=True)
                )
                for point, layers in enumerate(transitions)
            )
        return torch.cat(first, 1)

    def loss(self, x: Tensor, regions: Tensor, objects: Tensor, radius: int) -> Tensor:
        """Features [R, in_channels, h, h] of regions [R, 4] and their objects [R, 4] -> a scalar.

        The maps of the features before they are joined are trained as well.
        """
        features = self.convs(x)
        maps = self.maps(self.fused(features)), self.maps(features)
        if not len(x):
            return maps[0].sum() + maps[1].sum()
        wanted = self.points.targets(regions, objects, radius)
        loss: Tensor = self.loss_grid(maps[0], wanted) + self.loss_grid(maps[1], wanted)
        return loss
