"""TOOD and its head.

Letters: B images, C classes, S cells of all levels, P positive cells, K layers.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from cupola import nn
from cupola.models.boxes import Assignment
from cupola.models.boxes.distances import boxes_around, centerness, centers, distances
from cupola.models.dense import AnchorHead, DenseOutput, ImageSizes, SingleStageDetector
from cupola.models.dense.stacks import GROUP_NORM
from cupola.models.dense.targets import (
    AnchorTargets,
    Targets,
    predicted_targets,
    usable_anchors,
)
from cupola.models.gfl.head import level_strides
from cupola.models.layers import ConvModule
from cupola.models.layers.scale import Scale
from cupola.ops.deform_conv import deform_conv2d
from cupola.registry import MODELS, TASK_UTILS

Config = Mapping[str, Any]
INITIAL_LOSS: Config = {"type": "FocalLoss", "use_sigmoid": True, "activated": True}


@MODELS.register_module()
class TOOD(SingleStageDetector):
    """Source: mmdet/models/detectors/tood.py."""


class TaskDecomposition(nn.Module):
    """Features of one task: the layers' features [B, K * C, h, w], weighed -> [B, C, h, w]."""

    def __init__(
        self,
        channels: int,
        layers: int,
        reduction: int,
        conv_cfg: Config | None,
        norm_cfg: Config | None,
    ) -> None:
        super().__init__()
        joined = channels * layers
        self.layers, self.channels = layers, channels
        self.layer_attention = nn.Sequential(
            nn.Conv2d(joined, joined // reduction, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(joined // reduction, layers, 1),
            nn.Sigmoid(),
        )
        self.reduction_conv = ConvModule(
            joined, channels, 1, conv_cfg=conv_cfg, norm_cfg=norm_cfg, bias=norm_cfg is None
        )

    @property
    def kernel(self) -> Tensor:
        """The weight of the reduction, [C, K * C, 1, 1]."""
        conv: Any = self.reduction_conv.conv
        weight: Tensor = conv.weight
        return weight

    def forward(self, x: Tensor, mean: Tensor) -> Tensor:
        """x [B, K * C, h, w] and its mean [B, K * C, 1, 1] -> [B, C, h, w]."""
        B, _, h, w = x.shape
        weight = self.kernel.view(1, self.channels, self.layers, -1)
        weight = weight * self.layer_attention(mean).view(B, 1, self.layers, 1)
        found = torch.bmm(weight.flatten(2), x.flatten(2)).view(B, self.channels, h, w)
        if self.reduction_conv.norm_name is not None:
            found = getattr(self.reduction_conv, self.reduction_conv.norm_name)(found)
        assert self.reduction_conv.activate is not None
        result: Tensor = self.reduction_conv.activate(found)
        return result


@MODELS.register_module()
class TOODHead(AnchorHead):
    """Scores, and boxes in strides, which each side reads at a learned place nearby.

    The first `initial_epoch` epochs train as ATSS does, later ones with TaskAlignedAssigner; the
    trainer sets `epoch`. Source: mmdet/models/dense_heads/tood_head.py.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        num_dcn: int = 0,
        anchor_type: str = "anchor_free",
        initial_loss_cls: Config = INITIAL_LOSS,
        stacked_convs: int = 4,
        conv_cfg: Config | None = None,
        norm_cfg: Config | None = GROUP_NORM,
        reg_decoded_bbox: bool = True,
        pred_kernel_size: int = 3,
        loss_centerness: Config | None = None,
        train_cfg: Config | None = None,
        init_cfg: Any = None,
        **options: Any,
    ) -> None:
        if anchor_type not in ("anchor_free", "anchor_based"):
            raise ValueError(f"anchor_type is anchor_free or anchor_based, got {anchor_type!r}")
        super().__init__(num_classes, in_channels, **options)
        self.init_cfg = init_cfg
        self.anchor_free = anchor_type == "anchor_free"
        self.train_cfg, self.epoch = dict(train_cfg or {}), 0
        if train_cfg:
            self.assigner = TASK_UTILS.build(train_cfg["initial_assigner"])
            self.aligned = TASK_UTILS.build(train_cfg["assigner"])
            self.sampler = TASK_UTILS.build({"type": "PseudoSampler"})
            self.initial_loss = MODELS.build(initial_loss_cls)
        channels, joined = self.feat_channels, self.feat_channels * stacked_convs
        deformable: Config = {"type": "DCNv2", "deform_groups": 4}
        self.inter_convs = nn.ModuleList(
            ConvModule(
                channels if i else in_channels,
                channels,
                3,
                padding=1,
                conv_cfg=deformable if i < num_dcn else conv_cfg,
                norm_cfg=norm_cfg,
            )
            for i in range(stacked_convs)
        )
        parts = (channels, stacked_convs, stacked_convs * 8, conv_cfg, norm_cfg)
        self.cls_decomp, self.reg_decomp = TaskDecomposition(*parts), TaskDecomposition(*parts)
        count = self.anchors.counts[0]
        self.tood_cls = nn.Conv2d(channels, count * self.cls_channels, 3, padding=1)
        self.tood_reg = nn.Conv2d(channels, count * 4, 3, padding=1)
        self.cls_prob_module = nn.Sequential(
            nn.Conv2d(joined, channels // 4, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels // 4, 1, 3, padding=1),
        )
        self.reg_offset_module = nn.Sequential(
            nn.Conv2d(joined, channels // 4, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels // 4, 8, 3, padding=1),
        )
        self.scales = nn.ModuleList(Scale() for _ in self.anchors.strides)

    def init_weights(self) -> None:
        """Normal initialization; class scores begin at 0.01."""
        small = (self.cls_decomp.layer_attention, self.reg_decomp.layer_attention)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for part in (*small, self.reg_offset_module):
            for module in part.modules():
                if isinstance(module, nn.Conv2d):
                    nn.init.normal_(module.weight, std=0.001)
        layer: Any
        for layer in (self.tood_cls, list(self.cls_prob_module)[-1]):
            nn.init.constant_(layer.bias, -4.59512)  # sigmoid^-1(0.01)

    def forward(self, maps: Sequence[Tensor]) -> DenseOutput:
        """Feature maps [B, in_channels, h_i, w_i] -> DenseOutput: scores, boxes over the stride."""
        levels = [
            self._level(*each)
            for each in zip(
                maps, self.anchors(maps), self.anchors.strides, self.scales, strict=True
            )
        ]
        return DenseOutput(*zip(*levels, strict=True))

    def _level(
        self, x: Tensor, anchors: Tensor, stride: tuple[int, int], scale: nn.Module
    ) -> tuple[Tensor, Tensor]:
        B, _, h, w = x.shape
        layers = []
        for layer in self.inter_convs:
            x = layer(x)
            layers.append(x)
        x = torch.cat(layers, 1)
        mean = x.mean((2, 3), keepdim=True)
        logits = self.tood_cls(self.cls_decomp(x, mean))
        scores = (logits.sigmoid() * self.cls_prob_module(x).sigmoid()).sqrt()
        rows = self.tood_reg(self.reg_decomp(x, mean))
        if self.anchor_free:
            rows = scale(rows.exp()).float().permute(0, 2, 3, 1).reshape(B, -1, 4)
            boxes = boxes_around(centers(anchors) / stride[0], rows)
        else:
            rows = scale(rows).float().permute(0, 2, 3, 1).reshape(B, -1, 4)
            boxes = self.bbox_coder.decode(anchors, rows) / stride[0]
        boxes = boxes.view(B, h, w, 4).permute(0, 3, 1, 2)
        moved = _sampled(boxes.contiguous(), self.reg_offset_module(x))
        wrong = (moved[:, :2] > moved[:, 2:]).any(1, keepdim=True)
        return scores, torch.where(wrong, boxes, moved)

    def scores(self, logits: Tensor) -> Tensor:
        """The output has scores already."""
        return logits

    def decode(
        self, anchors: Tensor, rows: Tensor, stride: int, size: tuple[int, int] | None = None
    ) -> Tensor:
        """Boxes [..., 4] over the stride -> boxes, which the original does not clip."""
        return rows * stride

    def loss(self, output: DenseOutput, targets: Targets, sizes: ImageSizes) -> dict[str, Tensor]:
        """loss_cls and loss_bbox, by the alignment of every cell."""
        first = self.epoch < self.train_cfg.get("initial_epoch", 4)
        scores, boxes = self.joined(output)
        if first:
            wanted = self.targets(output, targets, sizes)
            align = wanted.positive.to(scores.dtype)  # [B, S]
        else:
            wanted, align = self.aligned_targets(output, targets, sizes)
        sampled = wanted.positive | wanted.negative
        labels = torch.full_like(sampled, self.num_classes, dtype=torch.int64)
        labels[wanted.positive] = wanted.labels
        extra = {} if first else {"quality": align[sampled]}
        loss_cls = (self.initial_loss if first else self.loss_cls)(
            scores[sampled], labels[sampled], avg_factor=self.average(align.sum()), **extra
        )
        if not len(wanted.labels):
            self.average(0.0)  # other ranks wait for it
            return {"loss_cls": loss_cls, "loss_bbox": boxes.sum() * 0}
        strides = level_strides(output.logits, self.anchors.strides, wanted.positive)
        central = centerness(distances(centers(wanted.anchors), wanted.boxes))
        weight = central if first else align[wanted.positive]
        loss_bbox = self.loss_bbox(
            boxes[wanted.positive],
            wanted.boxes / strides,
            weight=weight,
            avg_factor=self.average(weight.sum()),
        )
        return {"loss_cls": loss_cls, "loss_bbox": loss_bbox}

    @torch.no_grad()
    def aligned_targets(
        self, output: DenseOutput, targets: Targets, sizes: ImageSizes
    ) -> tuple[AnchorTargets, Tensor]:
        """Targets by TaskAlignedAssigner, and the alignment [B, S] of all cells."""
        anchors = torch.cat(self.anchors(output.logits))
        border = self.train_cfg.get("allowed_border", -1)
        usable = usable_anchors(self.anchors, output.logits, anchors, sizes, border)
        scores, boxes = self.scored_boxes(output)

        def assign(*parts: Any) -> tuple[Assignment, Tensor]:
            *predicted, target = parts
            alpha, beta = self.train_cfg["alpha"], self.train_cfg["beta"]
            objects = target["boxes"].to(anchors)
            found: tuple[Assignment, Tensor] = self.aligned(
                *predicted, objects, target["labels"], alpha, beta
            )
            return found

        return predicted_targets(anchors, usable, scores, boxes, targets, assign)


def _sampled(boxes: Tensor, offset: Tensor) -> Tensor:
    """Each side of the boxes [B, 4, h, w] read at its own offset [B, 8, h, w]."""
    weight = boxes.new_ones(4, 1, 1, 1)
    return deform_conv2d(boxes, offset.contiguous(), weight, groups=4, deform_groups=4)
