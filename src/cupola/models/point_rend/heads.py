"""CoarseMaskHead and MaskPointHead.

Letters: R regions, C classes, P points, (m, n) size of a coarse mask.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cupola import nn
from cupola.models.layers import ConvModule
from cupola.models.rcnn.mask_head import FCNMaskHead
from cupola.registry import MODELS
from cupola.registry.budget import reserve

Config = Mapping[str, Any]
COARSE: Config = {
    "type": "Xavier",
    "override": [{"name": "fcs"}, {"type": "Constant", "val": 0.001, "name": "fc_logits"}],
}
POINTS: Config = {"type": "Normal", "std": 0.001, "override": {"name": "fc_logits"}}


@MODELS.register_module()
class CoarseMaskHead(FCNMaskHead):
    """A small mask by linear layers, after a convolution that makes regions smaller.

    Source: mmdet/models/roi_heads/mask_heads/coarse_mask_head.py.
    """

    def __init__(
        self,
        num_convs: int = 0,
        num_fcs: int = 2,
        fc_out_channels: int = 1024,
        downsample_factor: int = 2,
        roi_feat_size: int = 14,
        in_channels: int = 256,
        conv_out_channels: int = 256,
        conv_cfg: Config | None = None,
        norm_cfg: Config | None = None,
        init_cfg: Any = COARSE,
        **options: Any,
    ) -> None:
        settings: dict[str, Any] = {"conv_cfg": conv_cfg, "norm_cfg": norm_cfg}
        super().__init__(
            num_convs,
            roi_feat_size,
            in_channels,
            conv_out_channels=conv_out_channels,
            upsample_cfg={"type": None},
            **settings,
            **options,
        )
        if self.class_agnostic or num_fcs < 1 or downsample_factor < 1:
            raise ValueError("CoarseMaskHead has a mask per class, num_fcs and downsample_factor")
        reserve(num_fcs)
        self.init_cfg = init_cfg
        del self.conv_logits
        width = conv_out_channels if num_convs else in_channels
        self.downsample_conv = None
        if downsample_factor > 1:
            self.downsample_conv = ConvModule(
                width, conv_out_channels, downsample_factor, stride=downsample_factor, **settings
            )
        self.side = roi_feat_size // downsample_factor
        width = conv_out_channels * self.side**2
        self.fcs = nn.ModuleList(
            nn.Linear(fc_out_channels if i else width, fc_out_channels) for i in range(num_fcs)
        )
        self.fc_logits = nn.Linear(fc_out_channels, self.num_classes * self.side**2)

    def init_weights(self) -> None:
        """Nothing but what init_cfg says."""

    def forward(self, x: Tensor) -> Tensor:
        """Regions [R, in_channels, h, w] -> mask logits [R, C, m, n]."""
        for conv in self.convs:
            x = conv(x)
        if self.downsample_conv is not None:
            x = self.downsample_conv(x)
        x = x.flatten(1)
        for layer in self.fcs:
            x = F.relu(layer(x))
        return self.fc_logits(x).view(len(x), self.num_classes, self.side, self.side)


@MODELS.register_module()
class MaskPointHead(nn.Module):
    """A network of points: from features of the image and the coarse mask to logits.

    With `coarse_pred_each_layer` every layer sees the coarse mask again.
    Source: mmdet/models/roi_heads/mask_heads/mask_point_head.py.
    """

    def __init__(
        self,
        num_classes: int,
        num_fcs: int = 3,
        in_channels: int = 256,
        fc_channels: int = 256,
        class_agnostic: bool = False,
        coarse_pred_each_layer: bool = True,
        conv_cfg: Config | None = None,
        norm_cfg: Config | None = None,
        act_cfg: Config | None = None,
        loss_point: Config | None = None,
        init_cfg: Any = POINTS,
    ) -> None:
        super().__init__()
        reserve(num_fcs)
        self.init_cfg = init_cfg
        self.class_agnostic, self.coarse_again = class_agnostic, coarse_pred_each_layer
        self.loss_point = MODELS.build(loss_point or {"type": "CrossEntropyLoss", "use_mask": True})
        settings: dict[str, Any] = {
            "conv_cfg": conv_cfg or {"type": "Conv1d"},
            "norm_cfg": norm_cfg,
            "act_cfg": act_cfg or {"type": "ReLU"},
        }
        width = in_channels + num_classes
        self.fcs = nn.ModuleList()
        for _ in range(num_fcs):
            self.fcs.append(ConvModule(width, fc_channels, 1, **settings))
            width = fc_channels + (num_classes if coarse_pred_each_layer else 0)
        self.fc_logits = nn.Conv1d(width, 1 if class_agnostic else num_classes, 1)

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        """Features [R, in_channels, P] and logits [R, C, P] of points -> logits [R, C, P]."""
        x = torch.cat((fine, coarse), 1)
        for layer in self.fcs:
            x = layer(x)
            x = torch.cat((x, coarse), 1) if self.coarse_again else x
        logits: Tensor = self.fc_logits(x)
        return logits

    def of_classes(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The logits of the given classes: [R, C, P], labels [R] -> [R, P]."""
        which = torch.zeros_like(labels) if self.class_agnostic else labels
        return logits[torch.arange(len(logits), device=logits.device), which]
