"""ResNet and ResNeXt of DetectoRS (arXiv 2006.02334), whose stages also take maps of a pyramid."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from cupola import nn
from cupola.models.backbones.residual import Bottleneck, Stage
from cupola.models.backbones.residual_net import ResidualNet
from cupola.models.backbones.resnet import BLOCKS, blocks_of_depth, deeper, grouped_width
from cupola.registry import MODELS

Config = Mapping[str, Any]


@MODELS.register_module(["DetectoRS_ResNeXt", "DetectoRS_ResNet"])
class DetectoRSResNet(ResidualNet):
    """x [B, 3, H, W] -> the feature maps of `out_indices`, after x itself if `output_img`.

    The 3x3 convolutions of `stage_with_sac` are `sac`, and `rfp_inplanes` is the number of channels
    of the maps that `recursive_maps` adds. `groups` and `base_width` are those of a ResNeXt. The
    other settings are those of ResidualNet. Sources: mmdet/models/backbones/detectors_resnet.py
    and detectors_resnext.py.
    """

    def __init__(
        self,
        depth: int,
        sac: Config | None = None,
        stage_with_sac: Sequence[bool] = (False, False, False, False),
        rfp_inplanes: int | None = None,
        output_img: bool = False,
        groups: int = 1,
        base_width: int = 4,
        base_channels: int = 64,
        stem_channels: int | None = None,  # that of base_channels
        num_stages: int = 4,
        strides: Sequence[int] = (1, 2, 2, 2),
        dilations: Sequence[int] = (1, 1, 1, 1),
        **settings: Any,
    ) -> None:
        if sac:
            if settings.get("dcn"):
                raise ValueError("DetectoRS takes either sac or dcn")
            settings |= {"dcn": sac, "stage_with_dcn": stage_with_sac}
        blocks = blocks_of_depth("DetectoRS_ResNet", depth, deeper(BLOCKS))
        stages = []
        for i in range(num_stages):
            channels = base_channels * 2**i
            width = grouped_width(channels, groups, base_width, base_channels)
            block = partial(Bottleneck, groups=groups, width=width)
            stages.append(Stage(block, blocks[i], channels, channels * 4, strides[i], dilations[i]))
        if settings.get("avg_down"):
            settings["avg_down"] = "strided"
        super().__init__(stages, stem_channels=stem_channels or base_channels, **settings)
        self.output_img = output_img
        if rfp_inplanes:
            for name, stage in zip(self.stages[1:], stages[1:], strict=True):
                conv = nn.Conv2d(rfp_inplanes, stage.out_channels, 1)
                nn.init.zeros_(conv.weight)
                if conv.bias is not None:
                    nn.init.zeros_(conv.bias)
                getattr(self, name)[0].rfp_conv = conv
            self._freeze()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        maps = super().forward(x)
        return (x, *maps) if self.output_img else maps

    def recursive_maps(self, x: Tensor, pyramid: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The feature maps of x with a convolution of pyramid[i] added in stage i (but the first).

        The maps of the pyramid [B, rfp_inplanes, h_i, w_i] have the sizes of the stages.
        """
        x = self.stem_maps(x)
        maps = []
        for i, name in enumerate(self.stages):
            for number, block in enumerate(getattr(self, name)):
                if i and not number:
                    merged = block.residual(x) + block.shortcut(x)
                    x = F.relu(merged + block.rfp_conv(pyramid[i]))
                else:
                    x = block(x)
            maps.append(x)
        return tuple(each for i, each in enumerate(maps) if i in self.out_indices)
