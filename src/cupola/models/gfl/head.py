"""GFL and its head.

Letters: B images, C classes, S cells of all levels, P positive cells, n = reg_max + 1.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cupola import nn
from cupola.models.boxes.distances import centers
from cupola.models.dense import AnchorHead, DenseOutput, ImageSizes, SingleStageDetector
from cupola.models.dense.stacks import GROUP_NORM, apply, initial, stack
from cupola.models.dense.targets import AnchorTargets, Targets
from cupola.models.layers.scale import Scale
from cupola.registry import MODELS
from cupola.registry.budget import reserve
from cupola.structures.boxes import iou

Config = Mapping[str, Any]


@MODELS.register_module()
class GFL(SingleStageDetector):
    """Source: mmdet/models/detectors/gfl.py."""


class Integral(nn.Module):
    """The mean of distributions over 0..reg_max: logits [..., 4 * n] -> [..., 4]."""

    project: Tensor

    def __init__(self, reg_max: int = 16) -> None:
        super().__init__()
        reserve(reg_max)
        self.register_buffer("project", torch.linspace(0, reg_max, reg_max + 1))

    def forward(self, logits: Tensor) -> Tensor:
        share = logits.reshape(*logits.shape[:-1], 4, len(self.project)).softmax(-1)
        return F.linear(share, self.project.to(share)[None])[..., 0]


@MODELS.register_module()
class GFLHead(AnchorHead):
    """Classes, and for each side of the box the distribution of its distance in strides.

    Source: mmdet/models/dense_heads/gfl_head.py.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        stacked_convs: int = 4,
        conv_cfg: Config | None = None,
        norm_cfg: Config | None = GROUP_NORM,
        loss_dfl: Config | None = None,
        bbox_coder: Config | None = None,
        reg_max: int = 16,
        init_cfg: Any = None,
        **options: Any,
    ) -> None:
        super().__init__(
            num_classes,
            in_channels,
            bbox_coder=bbox_coder or {"type": "DistancePointBBoxCoder"},
            init_cfg=init_cfg or initial("gfl_cls"),
            **options,
        )
        if self.anchors.counts[0] != 1:
            raise ValueError("GFLHead has one anchor a cell: set one ratio and one scale")
        self.reg_max, self.box_width = reg_max, 4 * (reg_max + 1)
        channels = self.feat_channels
        settings = (stacked_convs, in_channels, channels, conv_cfg, norm_cfg)
        self.cls_convs, self.reg_convs = stack(*settings), stack(*settings)
        self.gfl_cls = nn.Conv2d(channels, self.cls_channels, 3, padding=1)
        self.gfl_reg = nn.Conv2d(channels, self.box_width, 3, padding=1)
        self.scales = nn.ModuleList(Scale() for _ in self.anchors.strides)
        self.integral = Integral(reg_max)
        self.loss_dfl = MODELS.build(loss_dfl or {"type": "DistributionFocalLoss"})

    def forward(self, maps: Sequence[Tensor]) -> DenseOutput:
        """Feature maps [B, in_channels, h_i, w_i] -> DenseOutput; boxes [B, 4 * n, h, w]."""
        levels = [
            (self.gfl_cls(apply(self.cls_convs, x)), scale(self.gfl_reg(apply(self.reg_convs, x))))
            for x, scale in zip(maps, self.scales, strict=True)
        ]
        return DenseOutput(*zip(*levels, strict=True))

    def decode(
        self, anchors: Tensor, rows: Tensor, stride: int, size: tuple[int, int] | None = None
    ) -> Tensor:
        """Anchors [..., 4] of a level of that stride, logits [..., 4 * n] -> boxes [..., 4]."""
        sides = self.integral(rows) * stride
        found: Tensor = self.bbox_coder.decode(centers(anchors), sides, size)
        return found

    def loss(self, output: DenseOutput, targets: Targets, sizes: ImageSizes) -> dict[str, Tensor]:
        """loss_cls (towards the IoU), loss_bbox and loss_dfl (weighted by the score)."""
        wanted = self.targets(output, targets, sizes)
        logits, rows = self.joined(output)
        count = self.average(wanted.average)
        quality = logits.new_zeros(wanted.positive.shape)
        nothing = rows.sum() * 0
        losses = {"loss_bbox": nothing, "loss_dfl": nothing}
        score = logits[wanted.positive].detach().sigmoid()  # [P, C]
        weight = score.amax(-1) if len(score) else score.new_zeros(0)
        total = self.average(weight.sum())
        if len(score):
            strides = self.strides_of(output, wanted)  # [P, 1]
            points, goal = centers(wanted.anchors) / strides, wanted.boxes / strides
            logs = rows[wanted.positive]  # [P, 4 * n]
            boxes = self.bbox_coder.decode(points, self.integral(logs))
            quality[wanted.positive] = iou(boxes.detach(), goal)
            losses["loss_bbox"] = self.loss_bbox(boxes, goal, weight=weight, avg_factor=total)
            losses["loss_dfl"] = self.loss_dfl(
                logs.reshape(-1, self.reg_max + 1),
                self.bbox_coder.encode(points, goal, self.reg_max).flatten(),
                weight=weight[:, None].expand(-1, 4).flatten(),
                avg_factor=4.0 * total,
            )
        return {"loss_cls": self.class_loss(logits, wanted, quality, count), **losses}

    def class_loss(
        self, logits: Tensor, wanted: AnchorTargets, quality: Tensor, average: float
    ) -> Tensor:
        """The loss of the sampled cells' logits [B, S, C] towards `quality` [B, S]."""
        sampled = wanted.positive | wanted.negative
        labels = torch.full_like(sampled, self.num_classes, dtype=torch.int64)
        labels[wanted.positive] = wanted.labels
        loss: Tensor = self.loss_cls(
            logits[sampled], labels[sampled], avg_factor=average, quality=quality[sampled]
        )
        return loss

    def strides_of(self, output: DenseOutput, wanted: AnchorTargets) -> Tensor:
        """The stride of every positive cell, [P, 1]."""
        return level_strides(output.logits, self.anchors.strides, wanted.positive)


def level_strides(
    maps: Sequence[Tensor], strides: Sequence[tuple[int, int]], positive: Tensor
) -> Tensor:
    """The stride of every cell in `positive` [B, S] -> [P, 1]; one anchor a cell."""
    rows = [
        each.new_full((each.shape[-2] * each.shape[-1],), stride[0])
        for each, stride in zip(maps, strides, strict=True)
    ]
    return torch.cat(rows).expand_as(positive)[positive][:, None]
