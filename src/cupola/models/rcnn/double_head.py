"""Double-Head R-CNN (arXiv 1904.06493): linear layers for classes, convolutions for boxes.

Letters: R regions, C classes.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cupola import nn
from cupola.models.backbones.residual import BlockSettings, Bottleneck
from cupola.models.layers import ConvModule
from cupola.models.rcnn.box_head import BBoxHead
from cupola.models.rcnn.roi_extractor import SingleRoIExtractor
from cupola.models.rcnn.standard import Maps, StandardRoIHead
from cupola.registry import MODELS
from cupola.registry.budget import reserve

Config = Mapping[str, Any]
NORM: Config = {"type": "BN"}
INITIAL: Config = {
    "type": "Normal",
    "override": [
        {"type": "Normal", "name": "fc_cls", "std": 0.01},
        {"type": "Normal", "name": "fc_reg", "std": 0.001},
        {"type": "Xavier", "name": "fc_branch", "distribution": "uniform"},
    ],
}


class WideningBlock(nn.Module):
    """A residual block [R, in_channels, h, w] -> [R, out_channels, h, w]."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = ConvModule(in_channels, in_channels, 3, padding=1, norm_cfg=NORM)
        linear: dict[str, Any] = {"norm_cfg": NORM, "act_cfg": None}
        self.conv2 = ConvModule(in_channels, out_channels, 1, **linear)
        self.conv_identity = ConvModule(in_channels, out_channels, 1, **linear)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv2(self.conv1(x)) + self.conv_identity(x))


@MODELS.register_module()
class DoubleConvFCBBoxHead(BBoxHead):
    """`num_fcs` linear layers for classes, `num_convs` residual blocks for boxes.

    Source: mmdet/models/roi_heads/bbox_heads/double_bbox_head.py.
    """

    def __init__(
        self,
        num_convs: int,
        num_fcs: int,
        conv_out_channels: int = 1024,
        fc_out_channels: int = 1024,
        in_channels: int = 256,
        roi_feat_size: int = 7,
        conv_cfg: Config | None = None,
        norm_cfg: Config = NORM,
        init_cfg: Any = None,
        **options: Any,
    ) -> None:
        options = {"with_avg_pool": True, **options}
        if num_convs < 1 or num_fcs < 1 or not options["with_avg_pool"]:
            raise ValueError("num_convs and num_fcs are at least 1, and with_avg_pool is True")
        reserve(num_convs + num_fcs)
        super().__init__(
            in_channels=in_channels,
            roi_feat_size=roi_feat_size,
            init_cfg=init_cfg or INITIAL,
            **options,
        )
        wide, flat = conv_out_channels, in_channels * roi_feat_size**2
        settings = BlockSettings(norm_cfg, conv_cfg)
        self.res_block = WideningBlock(in_channels, wide)
        self.conv_branch = nn.ModuleList(
            Bottleneck(wide, wide // 4, settings=settings) for _ in range(num_convs)
        )
        self.fc_branch = nn.ModuleList(
            nn.Linear(fc_out_channels if i else flat, fc_out_channels) for i in range(num_fcs)
        )
        boxes = 1 if self.class_agnostic else self.num_classes
        self.fc_reg = nn.Linear(wide, 4 * boxes)
        self.fc_cls = nn.Linear(fc_out_channels, self.num_classes + 1)

    def forward(self, x: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Regions for classes and for boxes [2, R, C, h, w] -> logits and deltas."""
        assert self.fc_cls is not None and self.fc_reg is not None
        flat, wide = x[0].flatten(1), self.res_block(x[1])
        for layer in self.fc_branch:
            flat = F.relu(layer(flat))
        for block in self.conv_branch:
            wide = block(wide)
        return self.fc_cls(flat), self.fc_reg(wide.mean((2, 3)))


@MODELS.register_module()
class DoubleHeadRoIHead(StandardRoIHead):
    """Boxes come from regions `reg_roi_scale_factor` times as large.

    Source: mmdet/models/roi_heads/double_roi_head.py.
    """

    def __init__(self, reg_roi_scale_factor: float, **options: Any) -> None:
        super().__init__(**options)
        if self.mask_head is not None and self.mask_roi_extractor is None:
            raise ValueError("DoubleHeadRoIHead takes a mask_roi_extractor with a mask_head")
        self.factor = reg_roi_scale_factor

    def regions(self, maps: Maps, rois: Tensor) -> Tensor:
        """rois [R, 5] -> the box head's input [2, R, C, h, w]."""
        low, high = rois[:, 1:3], rois[:, 3:]
        center, half = (low + high) / 2, (high - low) / 2 * self.factor
        larger = torch.cat((rois[:, :1], center - half, center + half), 1)
        # the level is that of the region itself, where one level gives it
        own = (rois,) if isinstance(self.bbox_roi_extractor, SingleRoIExtractor) else ()
        found = [super().regions(maps, rois), self.bbox_roi_extractor(maps, larger, *own)]
        if self.shared_head is not None:
            found[1] = self.shared_head(found[1])
        return torch.stack(found)
