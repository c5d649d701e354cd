"""DDOD and its head.

Letters: B images, C classes, S anchors of all levels, P positive anchors.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from cupola import nn
from cupola.models.boxes import IGNORED
from cupola.models.dense import AnchorHead, DenseOutput, ImageSizes, SingleStageDetector
from cupola.models.dense.anchor_head import joined_levels
from cupola.models.dense.stacks import GROUP_NORM, apply, stack
from cupola.models.dense.targets import (
    AnchorTargets,
    PaddedTargets,
    Targets,
    assigned_targets,
    usable_anchors,
)
from cupola.models.layers.scale import Scale
from cupola.registry import MODELS, TASK_UTILS
from cupola.structures.boxes import iou

Config = Mapping[str, Any]
DEFORMABLE: Config = {"type": "DCN", "deform_groups": 1}
FIRST_SCORE = 0.01  # of every class, before training


@MODELS.register_module()
class DDOD(SingleStageDetector):
    """Source: mmdet/models/detectors/ddod.py."""


@MODELS.register_module()
class DDODHead(AnchorHead):
    """Classes, deltas and the IoU of the boxes, which weighs scores.

    With `use_dcn` the first convolution of both stacks is deformable. `assigner` of train_cfg
    chooses the anchors that learn classes, `reg_assigner` those that learn boxes. Losses of levels
    with few positive anchors so far weigh up to twice as much as those of levels with many.
    Source: mmdet/models/dense_heads/ddod_head.py.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        stacked_convs: int = 4,
        conv_cfg: Config | None = None,
        use_dcn: bool = True,
        norm_cfg: Config | None = GROUP_NORM,
        loss_iou: Config | None = None,
        train_cfg: Config | None = None,
        **options: Any,
    ) -> None:
        super().__init__(
            num_classes, in_channels, train_cfg=train_cfg, **{"init_cfg": None, **options}
        )
        self.loss_iou = MODELS.build(loss_iou or {"type": "CrossEntropyLoss", "use_sigmoid": True})
        if self.anchors.counts[0] != 1:
            raise ValueError("DDODHead has one anchor a cell: one of scales, and of ratios")
        if train_cfg:
            self.reg_assigner = TASK_UTILS.build(train_cfg["reg_assigner"])
        channels = self.feat_channels
        first = DEFORMABLE if use_dcn else None
        self.cls_convs, self.reg_convs = (
            stack(stacked_convs, in_channels, channels, conv_cfg, norm_cfg, first_conv_cfg=first)
            for _ in range(2)
        )
        self.atss_cls = nn.Conv2d(channels, self.cls_channels, 3, padding=1)
        self.atss_reg = nn.Conv2d(channels, 4, 3, padding=1)
        self.atss_iou = nn.Conv2d(channels, 1, 3, padding=1)
        self.scales = nn.ModuleList(Scale() for _ in self.anchors.strides)
        self.seen = [0.0] * len(self.anchors.strides)  # positive anchors of each level so far

    def init_weights(self) -> None:
        """Draws the weights of all convolutions but those of offsets, which stay zero."""
        last = (self.atss_cls, self.atss_reg, self.atss_iou)
        for conv in (*(each.conv for each in (*self.cls_convs, *self.reg_convs)), *last):
            nn.init.normal_(conv.weight, std=0.01)
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)
        assert self.atss_cls.bias is not None
        score = torch.tensor(FIRST_SCORE)
        nn.init.constant_(self.atss_cls.bias, float(score.logit()))

    def forward(self, maps: Sequence[Tensor]) -> DenseOutput:
        """Feature maps [B, in_channels, h_i, w_i] -> DenseOutput; qualities are IoUs."""
        levels = []
        for x, scale in zip(maps, self.scales, strict=True):
            for_class, for_box = apply(self.cls_convs, x), apply(self.reg_convs, x)
            deltas = scale(self.atss_reg(for_box))
            levels.append((self.atss_cls(for_class), deltas, self.atss_iou(for_box)))
        return DenseOutput(*zip(*levels, strict=True))

    def loss(self, output: DenseOutput, targets: Targets, sizes: ImageSizes) -> dict[str, Tensor]:
        """loss_cls, loss_bbox and loss_iou."""
        if self.assigner is None:
            raise ValueError("the model's train_cfg is missing: it names the assigner")
        wanted = self.chosen(self.assigner, output, targets, sizes)
        factors = self.level_factors(wanted)
        loss = self.class_loss(output, wanted, factors)
        wanted = self.chosen(self.reg_assigner, output, targets, sizes)
        factors = self.level_factors(wanted)
        return {"loss_cls": loss, **self.box_losses(output, wanted, factors)}

    @torch.no_grad()
    def chosen(
        self, assigner: Any, output: DenseOutput, targets: Targets, sizes: ImageSizes
    ) -> AnchorTargets:
        """What the anchors should predict that an assigner chooses by what they predict now."""
        anchors = torch.cat(self.anchors(output.logits))
        border = self.train_cfg.get("allowed_border", -1)
        usable = usable_anchors(self.anchors, output.logits, anchors, sizes, border)
        counts = [level.shape[-2:].numel() for level in output.logits]
        logits, deltas = self.joined(output)
        boxes = self.bbox_coder.decode(anchors, deltas)
        owners = torch.full(logits.shape[:2], IGNORED, device=logits.device)
        for i, (use, target) in enumerate(zip(usable, targets, strict=True)):
            own = [int(level.sum()) for level in torch.split(use, counts)]
            scores = logits[i][use][:, target["labels"]].sigmoid()
            objects = target["boxes"].to(anchors)
            found = assigner.by_prediction(anchors[use], objects, own, scores, boxes[i][use])
            owners[i, use] = found.objects
        wanted = assigned_targets(anchors, owners, PaddedTargets.of(targets, anchors))
        average = float((owners >= 0).sum(1).clamp(min=1).sum())
        level = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
        return replace(wanted, average=average, level=level.to(anchors.device))

    def level_factors(self, wanted: AnchorTargets) -> list[float]:
        """1 for the level that had the most positive anchors so far, 2 for that of the fewest."""
        level = wanted.levels_of(wanted.positive)
        assert level is not None
        counts = torch.bincount(level, minlength=len(self.seen)).tolist()
        self.seen = [before + count for before, count in zip(self.seen, counts, strict=True)]
        least, most = min(self.seen), max(self.seen)
        return [2 - (each - least) / (most - least + 1e-10) for each in self.seen]

    def class_loss(
        self, output: DenseOutput, wanted: AnchorTargets, factors: Sequence[float]
    ) -> Tensor:
        """The loss of the logits of all usable anchors, weighted by level."""
        logits, _ = self.joined(output)
        sampled = wanted.positive | wanted.negative
        labels = torch.full_like(sampled, self.num_classes, dtype=torch.int64)
        labels[wanted.positive] = wanted.labels
        rows, labels, level = logits[sampled], labels[sampled], wanted.levels_of(sampled)
        average = self.average(wanted.average)
        parts = [
            factor * self.loss_cls(rows[level == i], labels[level == i], avg_factor=average)
            for i, factor in enumerate(factors)
        ]
        return torch.stack(parts).sum()

    def box_losses(
        self, output: DenseOutput, wanted: AnchorTargets, factors: Sequence[float]
    ) -> dict[str, Tensor]:
        """loss_bbox and loss_iou of the positive anchors, weighted by level."""
        assert output.qualities is not None
        quality = joined_levels(output.qualities, 1)[..., 0]  # [B, S]
        deltas = joined_levels(output.boxes, 4)
        average = self.average(wanted.average)
        boxes = self.bbox_coder.decode(wanted.anchors, deltas[wanted.positive])  # [P, 4]
        overlap, found = iou(boxes.detach(), wanted.boxes), quality[wanted.positive]
        level = wanted.levels_of(wanted.positive)
        loss_bbox, loss_iou = deltas.sum() * 0, quality.sum() * 0
        for i, factor in enumerate(factors):
            own = level == i
            loss = self.loss_bbox(boxes[own], wanted.boxes[own], avg_factor=average)
            loss_bbox = loss_bbox + factor * loss
            loss_iou = loss_iou + factor * self.loss_iou(
                found[own], overlap[own], avg_factor=average
            )
        return {"loss_bbox": loss_bbox, "loss_iou": loss_iou}
