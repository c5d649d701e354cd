"""SSDHead.

Letters: B images, C classes, A anchors of a cell, S anchors of all levels.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cupola import nn
from cupola.models.dense import AnchorHead, DenseOutput
from cupola.models.dense.targets import AnchorTargets
from cupola.models.layers import ConvModule
from cupola.models.layers.conv_module import DepthwiseSeparableConvModule
from cupola.registry import MODELS

Config = Mapping[str, Any]
ANCHORS: Config = {
    "type": "SSDAnchorGenerator",
    "scale_major": False,
    "input_size": 300,
    "strides": [8, 16, 32, 64, 100, 300],
    "ratios": [[2], [2, 3], [2, 3], [2, 3], [2], [2]],
    "basesize_ratio_range": (0.1, 0.9),
}
XAVIER: Config = {"type": "Xavier", "layer": "Conv2d", "distribution": "uniform", "bias": 0}


@MODELS.register_module()
class SSDHead(AnchorHead):
    """Every level has its own convolutions; classes by softmax, the background last.

    An image's negatives are its hardest, `neg_pos_ratio` for each positive anchor.
    Source: mmdet/models/dense_heads/ssd_head.py.
    """

    def __init__(
        self,
        num_classes: int = 80,
        in_channels: Sequence[int] = (512, 1024, 512, 256, 256, 256),
        stacked_convs: int = 0,
        feat_channels: int = 256,
        use_depthwise: bool = False,
        conv_cfg: Config | None = None,
        norm_cfg: Config | None = None,
        act_cfg: Config | None = None,
        anchor_generator: Config = ANCHORS,
        init_cfg: Any = XAVIER,
        **options: Any,
    ) -> None:
        super().__init__(
            num_classes,
            in_channels[0],
            feat_channels,
            anchor_generator=anchor_generator,
            loss_cls={"type": "CrossEntropyLoss"},
            init_cfg=init_cfg,
            **options,
        )
        layer = DepthwiseSeparableConvModule if use_depthwise else ConvModule
        settings: dict[str, Any] = {"conv_cfg": conv_cfg, "norm_cfg": norm_cfg, "act_cfg": act_cfg}
        self.cls_convs, self.reg_convs = nn.ModuleList(), nn.ModuleList()
        for channels, count in zip(in_channels, self.anchors.counts, strict=True):
            for convs, outputs in ((self.cls_convs, self.cls_channels), (self.reg_convs, 4)):
                layers: list[nn.Module] = []
                width = channels
                for _ in range(stacked_convs):
                    layers.append(layer(width, feat_channels, 3, padding=1, **settings))
                    width = feat_channels
                if use_depthwise:
                    layers.append(ConvModule(width, width, 3, padding=1, groups=width, **settings))
                kernel = 1 if use_depthwise else 3
                layers.append(nn.Conv2d(width, count * outputs, kernel, padding=kernel // 2))
                convs.append(nn.Sequential(*layers))

    def forward(self, maps: Sequence[Tensor]) -> DenseOutput:
        """Feature maps [B, C_i, h_i, w_i] -> DenseOutput."""
        return DenseOutput(
            tuple(conv(x) for conv, x in zip(self.cls_convs, maps, strict=True)),
            tuple(conv(x) for conv, x in zip(self.reg_convs, maps, strict=True)),
        )

    def losses_of(self, logits: Tensor, deltas: Tensor, wanted: AnchorTargets) -> dict[str, Tensor]:
        """loss_cls and loss_bbox, both divided by the number of positive anchors."""
        labels = torch.full_like(wanted.positive, self.num_classes, dtype=torch.int64)
        labels[wanted.positive] = wanted.labels
        each = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
        each = each.view(labels.shape) * (wanted.positive | wanted.negative)  # [B, S]
        if wanted.weights is not None:
            each = each * torch.ones_like(each).masked_scatter(wanted.positive, wanted.weights)
        loss_cls = with_hardest(each, wanted.positive, self.train_cfg["neg_pos_ratio"])
        found = deltas[wanted.positive]
        if self.reg_decoded_bbox:
            found, goal = self.bbox_coder.decode(wanted.anchors, found), wanted.boxes
        else:
            goal = self.bbox_coder.encode(wanted.anchors, wanted.boxes)
        beta = self.train_cfg["smoothl1_beta"]
        loss_bbox = F.smooth_l1_loss(found, goal, reduction="sum", beta=beta)
        average = wanted.average
        return {"loss_cls": loss_cls / average, "loss_bbox": loss_bbox / average}


def with_hardest(
    losses: Tensor, positive: Tensor, ratio: float, all_of_empty: bool = False
) -> Tensor:
    """The sum of the losses [B, S] of positive anchors, and of the hardest others of every image.

    These are `ratio` for each positive one; with `all_of_empty` all, where an image has none.
    """
    total = losses[positive].sum()
    for each, mark in zip(losses, positive, strict=True):
        rest, count = each[~mark], int(mark.sum())
        hardest = len(rest) if all_of_empty and not count else int(ratio * count)
        total = total + rest.topk(min(hardest, len(rest))).values.sum()
    return total
