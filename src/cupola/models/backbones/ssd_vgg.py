"""VGG as SSD uses it (arXiv 1512.02325), with its last layers as convolutions."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from cupola import nn
from cupola.models.layers.initialization import initialize_convolutions, pretrained_init
from cupola.registry import MODELS

BLOCKS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
WIDTHS = (64, 128, 256, 512, 512)
LAST = 1024


@MODELS.register_module()
class SSDVGG(nn.Module):
    """x [B, 3, H, W] -> the maps after the layers `out_feature_indices` of `features`.

    `out_indices`, `input_size` and `l2_norm_scale` are unused, as in the original.
    Source: mmdet/models/backbones/ssd_vgg.py.
    """

    def __init__(
        self,
        depth: int,
        with_last_pool: bool = False,
        ceil_mode: bool = True,
        out_indices: Sequence[int] = (3, 4),
        out_feature_indices: Sequence[int] = (22, 34),
        pretrained: str | None = None,
        init_cfg: Any = None,
        input_size: int | None = None,
        l2_norm_scale: float | None = None,
    ) -> None:
        super().__init__()
        if depth not in BLOCKS:
            raise ValueError(f"SSDVGG depth is one of {sorted(BLOCKS)}, got {depth}")
        self.init_cfg = pretrained_init(pretrained, init_cfg)
        layers: list[nn.Module] = []
        channels = 3
        for count, width in zip(BLOCKS[depth], WIDTHS, strict=True):
            for _ in range(count):
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
                channels = width
            layers.append(nn.MaxPool2d(2, 2, ceil_mode=ceil_mode))
        if not with_last_pool:
            layers.pop()
        layers += [
            nn.MaxPool2d(3, 1, padding=1),
            nn.Conv2d(channels, LAST, 3, padding=6, dilation=6),
            nn.ReLU(inplace=True),
            nn.Conv2d(LAST, LAST, 1),
            nn.ReLU(inplace=True),
        ]
        if not out_feature_indices or max(out_feature_indices) >= len(layers):
            raise ValueError(f"out_feature_indices {out_feature_indices} of {len(layers)} layers")
        self.features = nn.Sequential(*layers)
        self.outputs = tuple(out_feature_indices)
        initialize_convolutions(self)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        maps = []
        for i, layer in enumerate(self.features):
            x = layer(x)
            if i in self.outputs:
                maps.append(x)
        return tuple(maps)
