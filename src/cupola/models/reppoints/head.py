"""RepPoints and its head.

Letters: B images, C classes, n points of an object, S cells of all levels, P positive cells.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cupola import nn
from cupola.models.boxes import clip
from cupola.models.boxes.distances import centers
from cupola.models.constants import constant
from cupola.models.dense import (
    AnchorHead,
    DenseOutput,
    ImageSizes,
    SingleStageDetector,
    level_rows,
)
from cupola.models.dense.stacks import apply, initial, stack
from cupola.models.dense.targets import AnchorTargets, Targets, anchor_targets, usable_anchors
from cupola.models.layers import DeformConv2d
from cupola.registry import MODELS, TASK_UTILS

Config = Mapping[str, Any]
FOCAL: Config = {"type": "FocalLoss", "use_sigmoid": True}
SMOOTH: Config = {"type": "SmoothL1Loss", "beta": 1 / 9}


@MODELS.register_module()
class RepPointsDetector(SingleStageDetector):
    """Source: mmdet/models/detectors/reppoints_detector.py."""


@MODELS.register_module()
class RepPointsHead(AnchorHead):
    """Points relative to the cell in strides, first and refined; classes look at the first ones.

    A box is the points' extent ("minmax", or "partial_minmax" of the first four) or their mean and
    standard deviation ("moment"). With `use_grid_points` the points are a grid in a regressed box.
    Source: mmdet/models/dense_heads/reppoints_head.py.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        feat_channels: int = 256,
        point_feat_channels: int = 256,
        stacked_convs: int = 4,
        num_points: int = 9,
        gradient_mul: float = 0.1,
        point_strides: Sequence[int] = (8, 16, 32, 64, 128),
        point_base_scale: int = 4,
        loss_cls: Config = FOCAL,
        loss_bbox_init: Config | None = None,
        loss_bbox_refine: Config = SMOOTH,
        use_grid_points: bool = False,
        center_init: bool = True,
        transform_method: str = "moment",
        moment_mul: float = 0.01,
        conv_cfg: Config | None = None,
        norm_cfg: Config | None = None,
        train_cfg: Config | None = None,
        init_cfg: Any = None,
        **options: Any,
    ) -> None:
        self.kernel = math.isqrt(num_points)
        if self.kernel**2 != num_points or self.kernel % 2 == 0:
            raise ValueError(f"num_points should be the square of an odd number, got {num_points}")
        if transform_method not in ("minmax", "partial_minmax", "moment"):
            raise ValueError(f"transform_method {transform_method!r} is not known")
        super().__init__(
            num_classes,
            in_channels,
            feat_channels,
            anchor_generator={"type": "MlvlPointGenerator", "strides": point_strides, "offset": 0},
            loss_cls=loss_cls,
            init_cfg=init_cfg or initial("reppoints_cls_out"),
            **options,
        )
        self.num_points, self.gradient_mul = num_points, gradient_mul
        self.base_scale, self.grid = point_base_scale, use_grid_points
        self.centered, self.method, self.moment_mul = center_init, transform_method, moment_mul
        self.loss_init = MODELS.build(loss_bbox_init or {**SMOOTH, "loss_weight": 0.5})
        self.loss_refine = MODELS.build(loss_bbox_refine)
        self.train_cfg = dict(train_cfg or {})
        if train_cfg:
            self.assigner = TASK_UTILS.build(train_cfg["init"]["assigner"])
            self.refined = TASK_UTILS.build(train_cfg["refine"]["assigner"])
            self.sampler = TASK_UTILS.build({"type": "PseudoSampler"})
        if transform_method == "moment":
            self.moment_transfer = nn.Parameter(torch.zeros(2))
        settings = (stacked_convs, in_channels, feat_channels, conv_cfg, norm_cfg)
        self.cls_convs, self.reg_convs = stack(*settings), stack(*settings)
        width, padding = point_feat_channels, (self.kernel - 1) // 2
        numbers = 4 if use_grid_points else 2 * num_points

        def deformable() -> DeformConv2d:
            return DeformConv2d(feat_channels, width, self.kernel, 1, padding)

        self.reppoints_cls_conv = deformable()
        self.reppoints_cls_out = nn.Conv2d(width, self.cls_channels, 1)
        self.reppoints_pts_init_conv = nn.Conv2d(feat_channels, width, 3, padding=1)
        self.reppoints_pts_init_out = nn.Conv2d(width, numbers, 1)
        self.reppoints_pts_refine_conv = deformable()
        self.reppoints_pts_refine_out = nn.Conv2d(width, numbers, 1)

    def kernel_grid(self, like: Tensor) -> Tensor:
        """The places of a convolution's weights, (y, x) from the center: [1, 2 * n, 1, 1]."""
        half = (self.kernel - 1) // 2
        side = torch.arange(-half, half + 1, device=like.device)
        y, x = torch.meshgrid(side, side, indexing="ij")
        return torch.stack((y, x), -1).reshape(1, -1, 1, 1).to(like.dtype)

    def forward(self, maps: Sequence[Tensor]) -> DenseOutput:
        """Feature maps [B, in_channels, h_i, w_i] -> DenseOutput.

        Boxes are relative to the cell, in strides. `initial` are the first and the refined points
        [B, 4 * n, h, w], in training only.
        """
        levels = [self._level(x) for x in maps]
        logits, first, refined = zip(*levels, strict=True)
        boxes = tuple(self.points_to_boxes(each) for each in refined)
        if not self.training:
            return DenseOutput(logits, boxes)
        return DenseOutput(logits, boxes, None, tuple(map(_pair, first, refined)))

    def _level(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        place = self.kernel_grid(x)
        for_class, for_points = apply(self.cls_convs, x), apply(self.reg_convs, x)
        scale = self.base_scale / 2
        hidden = F.relu(self.reppoints_pts_init_conv(for_points))
        first = self.reppoints_pts_init_out(hidden)
        box = constant((-scale, -scale, scale, scale), x, x.dtype).view(1, 4, 1, 1)
        if self.grid:
            first, box = self.grid_points(first, box)
        elif not self.centered:
            first = first + place / place.max() * scale
        offset = (1 - self.gradient_mul) * first.detach() + self.gradient_mul * first - place
        logits = self.reppoints_cls_out(F.relu(self.reppoints_cls_conv(for_class, offset)))
        moved = F.relu(self.reppoints_pts_refine_conv(for_points, offset))
        refined = self.reppoints_pts_refine_out(moved)
        if self.grid:
            return logits, first, self.grid_points(refined, box.detach())[0]
        return logits, first, refined + first.detach()

    def grid_points(self, rows: Tensor, box: Tensor) -> tuple[Tensor, Tensor]:
        """Deltas [B, 4, h, w] of a box [., 4, ., .] -> a grid of points in it, and the box."""
        center = (box[:, :2] + box[:, 2:]) / 2
        side = (box[:, 2:] - box[:, :2]).clamp(min=1e-6)
        size = side * rows[:, 2:].exp()
        corner = center + side * rows[:, :2] - 0.5 * size
        steps = torch.linspace(0, 1, self.kernel, device=rows.device).view(1, -1, 1, 1)
        x = corner[:, :1] + size[:, :1] * steps  # [B, kernel, h, w]
        y = corner[:, 1:] + size[:, 1:] * steps
        x = x[:, None].expand(-1, self.kernel, -1, -1, -1).flatten(1, 2)
        y = y[:, :, None].expand(-1, -1, self.kernel, -1, -1).flatten(1, 2)
        return torch.stack((y, x), 2).flatten(1, 2), torch.cat((corner, corner + size), 1)

    def points_to_boxes(self, points: Tensor) -> Tensor:
        """Points (y, x) [., 2 * n, ...] -> boxes [., 4, ...], xyxy."""
        y, x = points[:, 0::2], points[:, 1::2]
        if self.method == "moment":
            transfer = self.moment_transfer
            moment = transfer * self.moment_mul + transfer.detach() * (1 - self.moment_mul)
            parts = [
                (each.mean(1, keepdim=True), each.std(1, keepdim=True) * moment[i].exp())
                for i, each in enumerate((x, y))
            ]
            low, high = [m - s for m, s in parts], [m + s for m, s in parts]
            return torch.cat((*low, *high), 1)
        if self.method == "partial_minmax":
            y, x = y[:, :4], x[:, :4]
        low = [each.amin(1, keepdim=True) for each in (x, y)]
        return torch.cat((*low, *(each.amax(1, keepdim=True) for each in (x, y))), 1)

    def decode(
        self, anchors: Tensor, rows: Tensor, stride: int, size: tuple[int, int] | None = None
    ) -> Tensor:
        """Cells [..., 4] of a level of that stride, relative boxes [..., 4] -> boxes [..., 4]."""
        place = centers(anchors)
        boxes = rows * stride + torch.cat((place, place), -1)
        return boxes if size is None else clip(boxes, size)

    def loss(self, output: DenseOutput, targets: Targets, sizes: ImageSizes) -> dict[str, Tensor]:
        """loss_cls, loss_pts_init and loss_pts_refine, of the boxes of both kinds of points."""
        if output.initial is None or self.assigner is None:
            raise ValueError("RepPoints computes losses in training mode, with a train_cfg")
        anchors = torch.cat(self.anchors(output.logits))
        usable = usable_anchors(self.anchors, output.logits, anchors, sizes, -1)
        logits, _ = self.joined(output)
        strides = (anchors[:, 2:3] - anchors[:, :1])[None]  # [1, S, 1]
        points = torch.cat([level_rows(each, 4 * self.num_points) for each in output.initial], 1)
        place = centers(anchors).repeat(1, 2)
        first, refined = (
            self.points_to_boxes(each.flatten(0, 1)).view(*points.shape[:2], 4) * strides + place
            for each in points.chunk(2, -1)
        )
        early = self._early(anchors, usable, targets)
        late = self._late(first.detach(), usable, targets)
        sampled = late.positive | late.negative
        labels = torch.full_like(sampled, self.num_classes, dtype=torch.int64)
        labels[late.positive] = late.labels
        losses = {
            "loss_cls": self.loss_cls(logits[sampled], labels[sampled], avg_factor=late.average)
        }
        unit = (strides * self.base_scale).expand(len(points), -1, -1)
        for name, loss, boxes, wanted in (
            ("loss_pts_init", self.loss_init, first, early),
            ("loss_pts_refine", self.loss_refine, refined, late),
        ):
            mark = wanted.positive
            if not mark.any():
                losses[name] = boxes.sum() * 0
                continue
            losses[name] = loss(
                boxes[mark] / unit[mark], wanted.boxes / unit[mark], avg_factor=wanted.average
            )
        return losses

    def _early(self, anchors: Tensor, usable: Sequence[Tensor], targets: Targets) -> AnchorTargets:
        """Targets of the first points, by the assigner of train_cfg["init"]."""
        if type(self.assigner).__name__ != "PointAssigner":  # it takes boxes around the cells
            place, half = centers(anchors), (anchors[:, 2:] - anchors[:, :2]) * self.base_scale / 2
            anchors = torch.cat((place - half, place + half), -1)
        counts = [len(anchors)]
        return anchor_targets(anchors, usable, counts, targets, self.assigner, self.sampler)

    def _late(self, boxes: Tensor, usable: Sequence[Tensor], targets: Targets) -> AnchorTargets:
        """Targets of the refined points, by the boxes [B, S, 4] of the first ones."""
        found = [
            anchor_targets(box, [use], [len(box)], [target], self.refined, self.sampler)
            for box, use, target in zip(boxes, usable, targets, strict=True)
        ]
        average = sum(each.average for each in found)
        return AnchorTargets(
            torch.cat([each.positive for each in found]),
            torch.cat([each.negative for each in found]),
            torch.cat([each.labels for each in found]),
            torch.cat([each.boxes for each in found]),
            torch.cat([each.anchors for each in found]),
            torch.cat([each.objects for each in found]),
            average,
        )


def _pair(first: Tensor, refined: Tensor) -> Tensor:
    return torch.cat((first, refined), 1)
