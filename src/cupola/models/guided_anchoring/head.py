"""GuidedAnchorHead: what guided heads share.

Letters: B images, C classes, S cells of all levels, K anchors that stand for a cell's.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cupola.models.dense import AnchorHead, ImageSizes, level_rows
from cupola.models.dense.anchor_head import joined_levels
from cupola.models.dense.targets import AnchorTargets, Targets, anchor_targets, usable_anchors
from cupola.models.guided_anchoring.locations import location_targets
from cupola.registry import MODELS, TASK_UTILS

Config = Mapping[str, Any]
WIDE = abs(math.log(1e-6))  # shapes of anchors change by up to a million
CODER: Config = {"type": "DeltaXYWHBBoxCoder"}
APPROXES: Config = {
    "type": "AnchorGenerator",
    "octave_base_scale": 8,
    "scales_per_octave": 3,
    "ratios": [0.5, 1.0, 2.0],
    "strides": [4, 8, 16, 32, 64],
}
SQUARES: Config = {
    "type": "AnchorGenerator",
    "ratios": [1.0],
    "scales": [8],
    "strides": [4, 8, 16, 32, 64],
}
LOCATION_LOSS: Config = {"type": "FocalLoss", "use_sigmoid": True}
SHAPE_LOSS: Config = {"type": "BoundedIoULoss", "beta": 0.2}


class GuidedOutput(NamedTuple):
    """One tensor per level: logits [B, C, h, w], boxes [B, 4, h, w], shapes [B, 2, h, w].

    locations [B, 1, h, w] are logits of whether a cell has an anchor; shapes are the logs of what
    a square anchor's width and height are multiplied by.
    """

    logits: tuple[Tensor, ...]
    boxes: tuple[Tensor, ...]
    shapes: tuple[Tensor, ...]
    locations: tuple[Tensor, ...]


class Approxes:
    """The usual anchors that stand for a cell's, whose shape is not known yet."""

    def __init__(self, generator: Any) -> None:
        self.generator, self.count = generator, generator.counts[0]

    def __call__(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps [B, C, h, w] -> the anchors of all cells [S, K, 4]."""
        return torch.cat(self.generator(maps)).view(-1, self.count, 4)

    def usable(self, maps: Sequence[Tensor], sizes: ImageSizes, border: float) -> list[Tensor]:
        """Which cells of every image may train, [S] bool: those with a usable anchor."""
        anchors = torch.cat(self.generator(maps))
        found = usable_anchors(self.generator, maps, anchors, sizes, border)
        return [each.view(-1, self.count).any(1) for each in found]


def approximating(cfg: Config, squares: Any) -> Approxes:
    """The Approxes of a config; ValueError if they do not fit the squares' generator."""
    generator = TASK_UTILS.build(cfg)
    if squares.counts[0] != 1 or squares.strides != generator.strides:
        raise ValueError(
            "square_anchor_generator has one anchor a cell, and the strides of "
            "approx_anchor_generator"
        )
    return Approxes(generator)


class GuidedAnchorHead(AnchorHead):
    """Abstract: subclasses add layers, and define `level`, which returns the four predictions.

    Cells whose location has a score below `loc_filter_thr` have no box. In training an object is
    assigned to the shapes of cells by a set of usual anchors, `approx_anchor_generator`.
    Source: mmdet/models/dense_heads/guided_anchor_head.py.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        approx_anchor_generator: Config = APPROXES,
        square_anchor_generator: Config = SQUARES,
        anchor_coder: Config = CODER,
        deform_groups: int = 4,
        loc_filter_thr: float = 0.01,
        loss_loc: Config = LOCATION_LOSS,
        loss_shape: Config = SHAPE_LOSS,
        train_cfg: Config | None = None,
        **options: Any,
    ) -> None:
        super().__init__(
            num_classes,
            in_channels,
            anchor_generator=square_anchor_generator,
            train_cfg=train_cfg,
            **options,
        )
        self.approxes = approximating(approx_anchor_generator, self.anchors)
        self.scale = approx_anchor_generator["octave_base_scale"]
        self.anchor_coder = TASK_UTILS.build(anchor_coder)
        self.anchor_coder.max_log = WIDE
        self.threshold = loc_filter_thr
        self.loss_loc, self.loss_shape = MODELS.build(loss_loc), MODELS.build(loss_shape)
        if train_cfg:
            self.ga_assigner = TASK_UTILS.build(train_cfg["ga_assigner"])
            sampler = train_cfg.get("ga_sampler") or {"type": "PseudoSampler"}
            self.ga_sampler = TASK_UTILS.build(sampler)

    def forward(self, maps: Sequence[Tensor]) -> Any:
        """Feature maps [B, in_channels, h_i, w_i] -> GuidedOutput."""
        return GuidedOutput(*zip(*(self.level(each) for each in maps), strict=True))

    def guided(self, output: GuidedOutput) -> list[Tensor]:
        """The anchors [B, h * w, 4] of every level, without a gradient."""
        return [
            self.shaped(squares, level_rows(shapes, 2).detach().float())
            for squares, shapes in zip(self.anchors(output.logits), output.shapes, strict=True)
        ]

    def shaped(self, squares: Tensor, shapes: Tensor) -> Tensor:
        """Squares [..., 4] and predicted shapes [..., 2] -> anchors [..., 4]."""
        deltas = torch.cat((torch.zeros_like(shapes), shapes), -1)
        found: Tensor = self.anchor_coder.decode(squares.expand_as(deltas), deltas)
        return found

    def located(self, output: GuidedOutput) -> list[Tensor]:
        """Whether cells have an anchor, [B, h * w] bool of every level; in training all have."""
        least = -1.0 if self.training else self.threshold
        return [level_rows(each, 1)[..., 0].sigmoid() >= least for each in output.locations]

    def scored_boxes(self, output: Any) -> tuple[Tensor, Tensor]:
        """Scores [B, S, C] and boxes [B, S, 4] of all cells; cells without an anchor score 0."""
        logits, deltas = self.joined(output)
        scores = self.scores(logits) * torch.cat(self.located(output), 1)[..., None]
        return scores, self.bbox_coder.decode(torch.cat(self.guided(output), 1), deltas)

    def loss(self, output: Any, targets: Targets, sizes: ImageSizes) -> dict[str, Tensor]:
        """loss_cls, loss_bbox, loss_shape and loss_loc of a batch."""
        usable = self.usable(output, sizes)
        return {
            **self.box_losses(output, targets, usable),
            "loss_shape": self.shape_loss(output, targets, usable),
            "loss_loc": self.location_loss(output, targets),
        }

    def usable(self, output: GuidedOutput, sizes: ImageSizes) -> list[Tensor]:
        """Which cells of every image may train, [S] bool: those with a usable usual anchor."""
        if self.assigner is None:
            raise ValueError("the model's train_cfg is missing: it names the assigner")
        border = self.train_cfg.get("allowed_border", -1)
        return self.approxes.usable(output.logits, sizes, border)

    def box_losses(
        self, output: GuidedOutput, targets: Targets, usable: Sequence[Tensor]
    ) -> dict[str, Tensor]:
        """loss_cls and loss_bbox: the guided anchors of every image are assigned to its objects."""
        guided = torch.cat(self.guided(output), 1)
        counts = [level.shape[-2:].numel() for level in output.logits]
        wanted = joined_targets(
            [
                anchor_targets(anchors, [use], counts, [target], self.assigner, self.sampler)
                for anchors, use, target in zip(guided, usable, targets, strict=True)
            ]
        )
        logits = joined_levels(output.logits, self.cls_channels)
        return self.losses_of(logits, joined_levels(output.boxes, 4), wanted)

    def shape_loss(
        self, output: GuidedOutput, targets: Targets, usable: Sequence[Tensor]
    ) -> Tensor:
        """How the anchors of cells that are assigned by their usual anchors fit their objects."""
        approxes = self.approxes(output.logits)
        counts = [level.shape[-2:].numel() for level in output.logits]
        wanted = anchor_targets(
            approxes, usable, counts, targets, self.ga_assigner, self.ga_sampler
        )
        shapes = joined_levels(output.shapes, 2)  # [B, S, 2]
        if not len(wanted.boxes):
            return shapes.sum() * 0
        squares = torch.cat(self.anchors(output.logits)).expand(len(shapes), -1, -1)
        found = self.shaped(squares[wanted.positive], shapes[wanted.positive])
        loss: Tensor = self.loss_shape(found, wanted.boxes, avg_factor=wanted.average)
        return loss

    def location_loss(self, output: GuidedOutput, targets: Targets) -> Tensor:
        """The focal loss of the locations, divided by a 200th of the cells.

        The original passes its targets as labels, so that its centers are class 1, the background,
        and scores are low there; the threshold is so small that this drops few. It is kept, so
        that losses and trained weights agree.
        """
        wanted = location_targets(
            [each["boxes"].to(output.logits[0]) for each in targets],
            [(int(each.shape[-2]), int(each.shape[-1])) for each in output.locations],
            [stride[0] for stride in self.anchors.strides],
            self.scale,
            self.train_cfg["center_ratio"],
            self.train_cfg["ignore_ratio"],
        )
        average = sum(goal.numel() for goal, _ in wanted) / 200
        losses = [
            self.loss_loc(
                logits.reshape(-1, 1), goal.reshape(-1).long(), weight.reshape(-1), average
            )
            for logits, (goal, weight) in zip(output.locations, wanted, strict=True)
        ]
        return torch.stack(losses).sum()


def joined_targets(found: Sequence[AnchorTargets]) -> AnchorTargets:
    """The targets of several batches as those of one."""
    return AnchorTargets(
        torch.cat([each.positive for each in found]),
        torch.cat([each.negative for each in found]),
        torch.cat([each.labels for each in found]),
        torch.cat([each.boxes for each in found]),
        torch.cat([each.anchors for each in found]),
        torch.cat([each.objects for each in found]),
        sum(each.average for each in found),
    )
