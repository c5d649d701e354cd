"""AnchorHead: classes and deltas of the anchors of every cell.

Letters: B images, C classes, A anchors of a cell, S anchors of all levels.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cupola import nn
from cupola.models.dense.postprocess import Candidates, best_of_levels, level_rows, suppress
from cupola.models.dense.targets import (
    AnchorTargets,
    ImageSizes,
    Targets,
    anchor_targets,
    usable_anchors,
)
from cupola.parallel import SINGLE, Group, mean_over_ranks
from cupola.registry import MODELS, TASK_UTILS
from cupola.structures import Detections

Config = Mapping[str, Any]
Sizes = Sequence[tuple[int, int]]
Factors = Sequence[Sequence[float] | None]

CODER: Config = {"type": "DeltaXYWHBBoxCoder"}
ANCHORS: Config = {
    "type": "AnchorGenerator",
    "scales": [8, 16, 32],
    "ratios": [0.5, 1.0, 2.0],
    "strides": [4, 8, 16, 32, 64],
}
CLASS_LOSS: Config = {"type": "CrossEntropyLoss", "use_sigmoid": True}
BOX_LOSS: Config = {"type": "SmoothL1Loss", "beta": 1 / 9}
INITIAL: Config = {"type": "Normal", "layer": "Conv2d", "std": 0.01}


class DenseOutput(NamedTuple):
    """One tensor per level: logits [B, A * C, h, w], boxes [B, A * 4, h, w].

    Boxes are as the head encodes them. qualities [B, A, h, w] are logits of how good a box is,
    where the head predicts that. initial are the boxes before they are refined, of heads that do.
    """

    logits: tuple[Tensor, ...]
    boxes: tuple[Tensor, ...]
    qualities: tuple[Tensor, ...] | None = None
    initial: tuple[Tensor, ...] | None = None


class AnchorHead(nn.Module):
    """Abstract: subclasses add layers, and define `level`, the predictions of one map.

    `reg_decoded_bbox` computes the box loss on boxes instead of deltas.
    Source: mmdet/models/dense_heads/anchor_head.py.
    """

    box_width = 4  # numbers that predict a box

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        feat_channels: int = 256,
        anchor_generator: Config = ANCHORS,
        bbox_coder: Config = CODER,
        reg_decoded_bbox: bool = False,
        loss_cls: Config = CLASS_LOSS,
        loss_bbox: Config = BOX_LOSS,
        train_cfg: Config | None = None,
        test_cfg: Config | None = None,
        init_cfg: Any = INITIAL,
    ) -> None:
        super().__init__()
        self.init_cfg = init_cfg
        self.data_group: Group = SINGLE  # set by the trainer: the ranks that read other data
        self.num_classes, self.in_channels = num_classes, in_channels
        self.feat_channels = feat_channels
        self.bbox_coder = TASK_UTILS.build(bbox_coder)
        self.reg_decoded_bbox = reg_decoded_bbox
        self.loss_cls = MODELS.build(loss_cls)
        self.loss_bbox = MODELS.build(loss_bbox)
        self.use_sigmoid = bool(getattr(self.loss_cls, "use_sigmoid", False))
        self.cls_channels = num_classes if self.use_sigmoid else num_classes + 1
        self.anchors = TASK_UTILS.build(anchor_generator)
        self.train_cfg, self.test_cfg = dict(train_cfg or {}), dict(test_cfg or {})
        self.assigner = self.sampler = None
        if train_cfg:
            self.assigner = TASK_UTILS.build(train_cfg["assigner"])
            self.sampler = TASK_UTILS.build(train_cfg.get("sampler") or {"type": "PseudoSampler"})

    def forward(self, maps: Sequence[Tensor]) -> DenseOutput:
        """Feature maps [B, in_channels, h_i, w_i] -> DenseOutput."""
        return DenseOutput(*zip(*(self.level(each) for each in maps), strict=True))

    def level(self, x: Tensor) -> tuple[Tensor, ...]:
        """A map [B, in_channels, h, w] -> logits [B, A * C, h, w], deltas [B, A * 4, h, w]."""
        raise NotImplementedError

    def scores(self, logits: Tensor) -> Tensor:
        """Logits [..., C] -> scores [..., C], without the background."""
        return logits.sigmoid() if self.use_sigmoid else logits.softmax(-1)[..., :-1]

    def decode(
        self, anchors: Tensor, rows: Tensor, stride: int, size: tuple[int, int] | None = None
    ) -> Tensor:
        """Anchors [..., 4] of a level of that stride, and their predictions -> boxes [..., 4]."""
        found: Tensor = self.bbox_coder.decode(anchors, rows, size)
        return found

    def scored_boxes(self, output: DenseOutput) -> tuple[Tensor, Tensor]:
        """Scores [B, S, C] and boxes [B, S, 4], xyxy in pixels, of all anchors."""
        logits, _ = self.joined(output)
        scores = self.scores(logits)
        if output.qualities is not None:
            scores = scores * joined_levels(output.qualities, 1).sigmoid()
        boxes = [
            self.decode(anchors, level_rows(rows, self.box_width), stride[0])
            for anchors, rows, stride in zip(
                self.anchors(output.logits), output.boxes, self.anchors.strides, strict=True
            )
        ]
        return scores, torch.cat(boxes, 1)

    def joined(self, output: DenseOutput) -> tuple[Tensor, Tensor]:
        """Logits [B, S, C] and predictions of boxes [B, S, box_width] of all levels."""
        logits = joined_levels(output.logits, self.cls_channels)
        return logits, joined_levels(output.boxes, self.box_width)

    def predict(
        self, output: DenseOutput, sizes: Sizes, scale_factors: Factors
    ) -> list[Detections]:
        """Detections of every image whose (height, width) without padding are `sizes`."""
        anchors = self.anchors(output.logits)
        logits = [level_rows(each, self.cls_channels).float() for each in output.logits]
        rows = [level_rows(each, self.box_width).float() for each in output.boxes]
        qualities = [level_rows(each, 1)[..., 0].float() for each in output.qualities or ()]
        found = []
        for i, (size, factor) in enumerate(zip(sizes, scale_factors, strict=True)):
            places, scores, labels = best_of_levels(
                [self.scores(each[i]) for each in logits],
                [each[i].sigmoid() for each in qualities] or None,
                self.test_cfg,
            )
            boxes = [
                self.decode(priors[where], level[i][where], stride[0], size)
                for priors, level, where, stride in zip(
                    anchors, rows, places, self.anchors.strides, strict=True
                )
            ]
            candidates = Candidates(torch.cat(boxes), scores, labels)
            found.append(suppress(candidates, self.test_cfg, factor))
        return found

    def loss(self, output: DenseOutput, targets: Targets, sizes: ImageSizes) -> dict[str, Tensor]:
        """loss_cls and loss_bbox; targets hold boxes [N, 4], xyxy in pixels, and labels [N]."""
        return self.losses_of(*self.joined(output), self.targets(output, targets, sizes))

    def losses_of(self, logits: Tensor, deltas: Tensor, wanted: AnchorTargets) -> dict[str, Tensor]:
        """loss_cls and loss_bbox of logits [B, S, C] and predictions of boxes [B, S, 4]."""
        return {
            "loss_cls": self.sampled_class_loss(logits, wanted),
            "loss_bbox": self.box_loss(deltas, wanted),
        }

    def box_loss(self, deltas: Tensor, wanted: AnchorTargets) -> Tensor:
        """The loss of the predictions of boxes [B, S, 4] of positive anchors."""
        found = deltas[wanted.positive]  # [P, 4]
        if self.reg_decoded_bbox:
            found, goal = self.bbox_coder.decode(wanted.anchors, found), wanted.boxes
        else:
            goal = self.bbox_coder.encode(wanted.anchors, wanted.boxes)
        if not len(found):
            return deltas.sum() * 0
        level = wanted.levels_of(wanted.positive)
        return of_levels(self.loss_bbox, level, found, goal, avg_factor=wanted.average)

    def sampled_class_loss(self, logits: Tensor, wanted: AnchorTargets) -> Tensor:
        """The loss of the logits [B, S, C] of sampled anchors."""
        sampled = wanted.positive | wanted.negative
        labels = torch.full_like(sampled, 0, dtype=torch.int64) + self.num_classes
        labels[wanted.positive] = wanted.labels
        weight = None
        factor = self.train_cfg.get("pos_weight", -1)
        if wanted.weights is not None:
            weight = torch.ones_like(sampled, dtype=logits.dtype)
            weight = weight.masked_scatter(wanted.positive, wanted.weights)[sampled]
        elif factor > 0:
            weight = torch.where(wanted.positive, float(factor), 1.0)[sampled]
        level = wanted.levels_of(sampled)
        rows = (logits[sampled], labels[sampled], weight)
        return of_levels(self.loss_cls, level, *rows, avg_factor=wanted.average)

    def targets(self, output: DenseOutput, targets: Targets, sizes: ImageSizes) -> AnchorTargets:
        """What the anchors of a batch should predict; ValueError for a model without train_cfg."""
        if self.assigner is None:
            raise ValueError("the model's train_cfg is missing: it names the assigner")
        anchors = torch.cat(self.anchors(output.logits))
        border = self.train_cfg.get("allowed_border", -1)
        usable = usable_anchors(self.anchors, output.logits, anchors, sizes, border)
        counts = [level.shape[-2:].numel() for level in output.logits]
        counts = [cells * each for cells, each in zip(counts, self.anchors.counts, strict=True)]
        return anchor_targets(anchors, usable, counts, targets, self.assigner, self.sampler)

    def average(self, value: Tensor | float, least: float = 1.0) -> float:
        """The mean of a number over the ranks that read other data, at least `least`."""
        found = mean_over_ranks(torch.as_tensor(value).detach().float(), self.data_group)
        return max(float(found), least)


def of_levels(loss: Any, level: Tensor | None, *rows: Tensor | None, avg_factor: float) -> Tensor:
    """A loss of rows [N, ...]; one that is `by_level` is summed over the levels [N] of the rows."""
    if level is None or not getattr(loss, "by_level", False):
        found: Tensor = loss(*rows, avg_factor=avg_factor)
        return found
    parts = []
    for index in sorted(set(level.tolist())):
        chosen = level == index
        parts.append(loss(*(each if each is None else each[chosen] for each in rows)))
    return torch.stack(parts).sum() if parts else rows[0].sum() * 0  # type: ignore[union-attr]


def joined_levels(levels: Sequence[Tensor], width: int) -> Tensor:
    """Predictions [B, A * width, h, w] of every level -> [B, S, width]."""
    return torch.cat([level_rows(each, width) for each in levels], 1)
