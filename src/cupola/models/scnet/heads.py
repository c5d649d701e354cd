"""The small heads of SCNet: masks, classes of pixels, classes of the image, and the relay.

Letters: B images, R regions, C classes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cupola import nn
from cupola.models.dense.stacks import stack
from cupola.models.htc import FusedSemanticHead
from cupola.models.rcnn import FCNMaskHead
from cupola.models.scnet.blocks import simplified_blocks
from cupola.registry import MODELS

Config = Mapping[str, Any]


@MODELS.register_module()
class SCNetMaskHead(FCNMaskHead):
    """An FCNMaskHead of residual blocks, unless `conv_to_res` is False."""

    def __init__(
        self,
        conv_to_res: bool = True,
        num_convs: int = 4,
        in_channels: int = 256,
        conv_out_channels: int = 256,
        conv_cfg: Config | None = None,
        norm_cfg: Config | None = None,
        **options: Any,
    ) -> None:
        super().__init__(
            num_convs=0 if conv_to_res else num_convs,
            in_channels=in_channels,
            conv_out_channels=conv_out_channels,
            conv_cfg=conv_cfg,
            norm_cfg=norm_cfg,
            **options,
        )
        if conv_to_res:
            channels = (in_channels, conv_out_channels)
            self.convs = simplified_blocks(num_convs, *channels, conv_cfg, norm_cfg)


@MODELS.register_module()
class SCNetSemanticHead(FusedSemanticHead):
    """A FusedSemanticHead of residual blocks, unless `conv_to_res` is False."""

    def __init__(
        self,
        num_ins: int,
        fusion_level: int,
        conv_to_res: bool = True,
        num_convs: int = 4,
        in_channels: int = 256,
        conv_out_channels: int = 256,
        conv_cfg: Config | None = None,
        norm_cfg: Config | None = None,
        **options: Any,
    ) -> None:
        super().__init__(
            num_ins,
            fusion_level,
            num_convs=0 if conv_to_res else num_convs,
            in_channels=in_channels,
            conv_out_channels=conv_out_channels,
            conv_cfg=conv_cfg,
            norm_cfg=norm_cfg,
            **options,
        )
        if conv_to_res:
            channels = (in_channels, conv_out_channels)
            self.convs = simplified_blocks(num_convs, *channels, conv_cfg, norm_cfg)


@MODELS.register_module()
class GlobalContextHead(nn.Module):
    """Which classes an image has, from the coarsest map.

    Source: mmdet/models/roi_heads/mask_heads/global_context_head.py.
    """

    def __init__(
        self,
        num_convs: int = 4,
        in_channels: int = 256,
        conv_out_channels: int = 256,
        num_classes: int = 80,
        loss_weight: float = 1.0,
        conv_cfg: Config | None = None,
        norm_cfg: Config | None = None,
        conv_to_res: bool = False,
        init_cfg: Any = None,
    ) -> None:
        super().__init__()
        self.init_cfg = init_cfg or {"type": "Normal", "std": 0.01, "override": {"name": "fc"}}
        self.loss_weight = loss_weight
        make = simplified_blocks if conv_to_res else stack
        self.convs = make(num_convs, in_channels, conv_out_channels, conv_cfg, norm_cfg)
        self.fc = nn.Linear(conv_out_channels, num_classes)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Maps [B, C, h_i, w_i] -> logits [B, C] and features [B, conv_out_channels, 1, 1]."""
        x = maps[-1]
        for conv in self.convs:
            x = conv(x)
        x = x.mean((2, 3), keepdim=True)
        return self.fc(x.flatten(1)), x

    def loss(self, logits: Tensor, labels: Sequence[Tensor]) -> Tensor:
        """Logits [B, C] and the labels of each image's objects -> a scalar."""
        targets = torch.zeros_like(logits)
        for target, present in zip(targets, labels, strict=True):
            target[present] = 1.0
        return self.loss_weight * F.binary_cross_entropy_with_logits(logits, targets)


@MODELS.register_module()
class FeatureRelayHead(nn.Module):
    """Vectors of regions [R, in_channels] -> [R, out_conv_channels, h, h] for the mask head.

    h is `roi_feat_size` * `scale_factor`. Source: mmdet's feature_relay_head.py.
    """

    def __init__(
        self,
        in_channels: int = 1024,
        out_conv_channels: int = 256,
        roi_feat_size: int = 7,
        scale_factor: int = 2,
        init_cfg: Any = None,
    ) -> None:
        super().__init__()
        self.init_cfg = init_cfg or {"type": "Kaiming", "layer": "Linear"}
        self.shape, self.factor = (out_conv_channels, roi_feat_size, roi_feat_size), scale_factor
        self.fc = nn.Linear(in_channels, out_conv_channels * roi_feat_size**2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc(x).view(len(x), *self.shape)
        return F.interpolate(x, scale_factor=self.factor, mode="bilinear", align_corners=True)
