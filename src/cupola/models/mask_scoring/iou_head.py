"""MaskIoUHead: the expected IoU of a region's mask.

Letters: R regions, C classes, P positive regions, (m, n) size of a mask.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cupola import nn
from cupola.models.rcnn.sampling import RoISample
from cupola.registry import MODELS

Config = Mapping[str, Any]
INITIAL = (
    {"type": "Kaiming", "override": {"name": "convs"}},
    {"type": "Caffe2Xavier", "override": {"name": "fcs"}},
    {"type": "Normal", "std": 0.01, "override": {"name": "fc_mask_iou"}},
)


@MODELS.register_module()
class MaskIoUHead(nn.Module):
    """Convolutions and linear layers on a region's features and its mask.

    Source: mmdet/models/roi_heads/mask_heads/maskiou_head.py.
    """

    def __init__(
        self,
        num_convs: int = 4,
        num_fcs: int = 2,
        roi_feat_size: int = 14,
        in_channels: int = 256,
        conv_out_channels: int = 256,
        fc_out_channels: int = 1024,
        num_classes: int = 80,
        loss_iou: Config | None = None,
        init_cfg: Any = INITIAL,
    ) -> None:
        super().__init__()
        self.init_cfg = list(init_cfg) if isinstance(init_cfg, (list, tuple)) else init_cfg
        self.convs = nn.ModuleList(
            nn.Conv2d(
                conv_out_channels if i else in_channels + 1,
                conv_out_channels,
                3,
                stride=2 if i == num_convs - 1 else 1,
                padding=1,
            )
            for i in range(num_convs)
        )
        area = (roi_feat_size // 2) ** 2
        self.fcs = nn.ModuleList(
            nn.Linear(fc_out_channels if i else conv_out_channels * area, fc_out_channels)
            for i in range(num_fcs)
        )
        self.fc_mask_iou = nn.Linear(fc_out_channels, num_classes)
        self.loss_iou = MODELS.build(loss_iou or {"type": "MSELoss", "loss_weight": 0.5})

    def forward(self, regions: Tensor, masks: Tensor) -> Tensor:
        """Regions [R, in_channels, h, w], logits of their masks [R, 2h, 2w] -> IoU [R, C]."""
        x = torch.cat((regions, F.max_pool2d(masks.sigmoid()[:, None], 2)), 1)
        for conv in self.convs:
            x = conv(x).relu()
        x = x.flatten(1)
        for layer in self.fcs:
            x = layer(x).relu()
        found: Tensor = self.fc_mask_iou(x)
        return found

    def loss(
        self,
        overlaps: Tensor,
        masks: Tensor,
        wanted: Tensor,
        samples: Sequence[RoISample],
        targets: Sequence[Mapping[str, Tensor]],
        threshold: float,
    ) -> Tensor:
        """Predicted IoU [P], mask logits and targets [P, m, n] -> a scalar."""
        found = (masks > threshold).float()
        common = (found * wanted).sum((1, 2))
        parts = torch.cat([visible(*each) for each in zip(samples, targets, strict=True)])
        whole = wanted.sum((1, 2)) / (parts + 1e-7)  # the object's area, beyond the region too
        goal = common / (found.sum((1, 2)) + whole - common)
        positive = goal > 0
        if not positive.any():
            return overlaps.sum() * 0
        loss: Tensor = self.loss_iou(overlaps[positive], goal[positive])
        return loss


def visible(sample: RoISample, target: Mapping[str, Tensor]) -> Tensor:
    """The part of each positive region's object that is in the region, 0..1: [P]."""
    parts = sample.boxes.new_zeros(len(sample.objects))
    height, width = target["masks"].shape[-2:]
    for i, (box, number) in enumerate(zip(sample.positive.int(), sample.objects, strict=True)):
        mask = target["masks"][number]
        left, top, right, bottom = box.tolist()
        left, right = (min(max(x, 0), width) for x in (left, right))
        top, bottom = (min(max(y, 0), height) for y in (top, bottom))
        inside = mask[top : max(bottom, top + 1), left : max(right, left + 1)]
        parts[i] = inside.sum() / (mask.sum() + 1e-7)
    return parts
