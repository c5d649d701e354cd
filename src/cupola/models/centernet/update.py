"""CenterNetUpdateHead: CenterNet's heatmaps on a feature pyramid, with distances to the sides.

Letters: B images, C classes, S cells of all levels, N objects of an image, L levels.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from cupola import nn
from cupola.models.boxes.distances import boxes_around, centers, distances
from cupola.models.dense import AnchorHead, DenseOutput, ImageSizes
from cupola.models.dense.stacks import GROUP_NORM, apply, initial, stack
from cupola.models.fcos.targets import FAR, Cells, cells_of
from cupola.models.layers.scale import Scale
from cupola.registry import MODELS
from cupola.structures.boxes import giou

Config = Mapping[str, Any]
Targets = Sequence[Mapping[str, Tensor]]

RANGES = ((0, 80), (64, 160), (128, 320), (256, 640), (512, FAR))
HEATMAP: Config = {"type": "GaussianFocalLoss", "pos_weight": 0.25, "neg_weight": 0.75}
CODER: Config = {"type": "DistancePointBBoxCoder"}
GIOU: Config = {"type": "GIoULoss", "loss_weight": 2.0}
CLAMP = 1e-4  # scores in the loss are within CLAMP..1 - CLAMP; smaller targets are 0
AROUND = [(x, y) for y in (-1, 0, 1) for x in (-1, 0, 1)]  # a cell and its neighbors


@MODELS.register_module()
class CenterNetUpdateHead(AnchorHead):
    """Two stacks as in FCOS. Cells near an object's center train its box.

    Of the cells next to an object's center up to `more_pos_topk` are positive whose predicted box
    has a GIoU loss below `more_pos_thresh`. `soft_weight_on_reg` weighs boxes by the heatmap.
    Source: Probabilistic two-stage detection (arXiv 2103.07461), section 4;
    mmdet/models/dense_heads/centernet_update_head.py. An image without objects has an empty
    heatmap, not one of the number of classes.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        stacked_convs: int = 4,
        strides: Sequence[int] = (8, 16, 32, 64, 128),
        regress_ranges: Sequence[Sequence[float]] = RANGES,
        hm_min_radius: int = 4,
        hm_min_overlap: float = 0.8,
        more_pos_thresh: float = 0.2,
        more_pos_topk: int = 9,
        soft_weight_on_reg: bool = False,
        conv_cfg: Config | None = None,
        norm_cfg: Config | None = GROUP_NORM,
        loss_cls: Config = HEATMAP,
        loss_bbox: Config = GIOU,
        bbox_coder: Config = CODER,
        init_cfg: Any = None,
        **options: Any,
    ) -> None:
        super().__init__(
            num_classes,
            in_channels,
            anchor_generator={"type": "MlvlPointGenerator", "strides": list(strides)},
            loss_cls=loss_cls,
            loss_bbox=loss_bbox,
            bbox_coder=bbox_coder,
            init_cfg=init_cfg or initial("conv_cls"),
            **options,
        )
        if len(strides) != len(regress_ranges):
            raise ValueError("strides and regress_ranges have one entry for each level")
        self.ranges, self.least_radius = tuple(regress_ranges), hm_min_radius
        self.delta = (1 - hm_min_overlap) / (1 + hm_min_overlap)
        self.more_threshold, self.more = more_pos_thresh, more_pos_topk
        self.soft = soft_weight_on_reg
        settings = (stacked_convs, in_channels, self.feat_channels, conv_cfg, norm_cfg)
        self.cls_convs, self.reg_convs = stack(*settings), stack(*settings)
        self.conv_cls = nn.Conv2d(self.feat_channels, num_classes, 3, padding=1)
        self.conv_reg = nn.Conv2d(self.feat_channels, 4, 3, padding=1)
        self.scales = nn.ModuleList(Scale() for _ in strides)

    def forward(self, maps: Sequence[Tensor]) -> DenseOutput:
        """Feature maps -> logits [B, C, h, w], distances [B, 4, h, w], in strides in training."""
        levels = []
        for x, scale, (stride, _) in zip(maps, self.scales, self.anchors.strides, strict=True):
            sides = scale(self.conv_reg(apply(self.reg_convs, x))).float().clamp(min=0)
            sides = sides if self.training else sides * stride
            levels.append((self.conv_cls(apply(self.cls_convs, x)), sides))
        return DenseOutput(*zip(*levels, strict=True))

    def decode(
        self, anchors: Tensor, rows: Tensor, stride: int, size: tuple[int, int] | None = None
    ) -> Tensor:
        """Cells [..., 4], distances [..., 4] in pixels -> boxes [..., 4]."""
        found: Tensor = self.bbox_coder.decode(centers(anchors), rows, size)
        return found

    def loss(self, output: DenseOutput, targets: Targets, sizes: ImageSizes) -> dict[str, Tensor]:
        """loss_cls of the heatmaps, loss_bbox of the cells near centers."""
        points = [centers(each) for each in self.anchors(output.logits)]
        cells = cells_of(points, [each for each, _ in self.anchors.strides], self.ranges)
        logits, rows = self.joined(output)
        found = [self.wanted(cells, each) for each in targets]
        heatmaps = torch.stack([each for each, _ in found])  # [B, S, C]
        goal = torch.stack([each for _, each in found])  # [B, S, 4]
        shapes = [(each.shape[-2], each.shape[-1]) for each in output.logits]
        places = [
            self.more_positives(shapes, each, row)
            for each, row in zip(targets, rows.detach(), strict=True)
        ]
        index = torch.cat([cell + i * len(cells.points) for i, (cell, _) in enumerate(places)])
        labels = torch.cat([label for _, label in places])
        scores = logits.sigmoid().clamp(CLAMP, 1 - CLAMP).flatten(0, 1)
        average = self.average(float(len(index)))
        loss_cls = self.loss_cls(
            scores, heatmaps.flatten(0, 1), avg_factor=average, positive=(index, labels)
        )
        positive = goal.amax(-1) >= 0  # [B, S]
        weight = heatmaps.amax(-1)[positive] if self.soft else positive[positive].to(rows)
        total = self.average(weight.sum())
        if not positive.any():
            return {"loss_cls": loss_cls, "loss_bbox": rows.sum() * 0}
        around = cells.points.expand(len(goal), -1, -1)[positive]
        loss_bbox = self.loss_bbox(
            boxes_around(around, rows[positive]),
            boxes_around(around, goal[positive]),
            weight=weight,
            avg_factor=total,
        )
        return {"loss_cls": loss_cls, "loss_bbox": loss_bbox}

    def wanted(self, cells: Cells, target: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The heatmaps [S, C] of one image, and distances [S, 4] in strides, below 0 for none."""
        boxes = target["boxes"].to(cells.points)
        heatmaps = cells.points.new_zeros(len(cells.points), self.num_classes)
        if not len(boxes):
            return heatmaps, cells.points.new_full((len(cells.points), 4), -FAR)
        stride = cells.strides[:, None, None]  # [S, 1, 1]
        sides = distances(cells.points[:, None], boxes)  # [S, N, 4]
        middle = centers(boxes)
        peak = (middle / stride).int() * stride + stride / 2  # [S, N, 2]
        off = cells.points[:, None] - peak
        extent = (sides[..., :2] + sides[..., 2:]).square().sum(-1).sqrt() / 2
        inside = (sides.amin(-1) > 0) & (off.abs() <= stride).all(-1)
        inside &= (extent >= cells.ranges[:, :1]) & (extent <= cells.ranges[:, 1:])
        away = (cells.points[:, None] - middle).square().sum(-1)  # [S, N]
        away = torch.where(off.square().sum(-1) == 0, 0.0, away)
        areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
        away = away / (self.delta**2 * 2 * areas).clamp(min=self.least_radius**2)
        for label in set(target["labels"].tolist()):
            values = (-away[:, target["labels"] == label].amin(1)).exp()
            heatmaps[:, label] = torch.where(values < CLAMP, 0.0, values)
        nearest, owner = torch.where(inside, away, FAR).min(1)
        chosen = sides[torch.arange(len(owner)), owner]
        chosen = torch.where(nearest[:, None] == FAR, -FAR, chosen) / cells.strides[:, None]
        return heatmaps, chosen

    def more_positives(
        self, shapes: Sequence[tuple[int, int]], target: Mapping[str, Tensor], rows: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Cells [P] and classes [P] of an image's positive places in the heatmaps.

        rows: distances [S, 4] in strides.
        """
        boxes, losses, places = target["boxes"].to(rows), [], []
        if not len(boxes):
            nothing = target["labels"][:0]
            return nothing, nothing
        start = 0
        for (height, width), (stride, _), (low, high) in zip(
            shapes, self.anchors.strides, self.ranges, strict=True
        ):
            cell = (centers(boxes) / stride).long()  # [N, 2]
            sides = distances(cell * stride + stride // 2, boxes)
            extent = (sides[:, :2] + sides[:, 2:]).square().sum(-1).sqrt() / 2
            here = (sides.amin(1) >= 0) & (extent >= low) & (extent <= high)
            for number, (x, y) in enumerate(AROUND):
                column, row = cell[:, 0] + x, cell[:, 1] + y
                goal = sides / stride + sides.new_tensor([x, y, -x, -y])
                usable = (column >= 0) & (column < width) & (row >= 0) & (row < height)
                usable &= goal.amin(1) >= 0
                index = torch.where(usable, start + row * width + column, 0)
                loss = self.overlap_loss(rows[index], goal, index, start, width, stride)
                loss = torch.where(usable, loss, FAR)
                if number == len(AROUND) // 2:  # the center itself
                    loss = torch.where(here, 0.0, loss)
                losses.append(loss)
                places.append(index)
            start += height * width
        loss, index = torch.stack(losses, 1), torch.stack(places, 1)  # [N, 9 * L]
        limit = loss.kthvalue(self.more, 1).values.clamp(max=self.more_threshold)
        positive = loss < limit[:, None]
        labels = target["labels"][:, None].expand_as(index)
        return index[positive], labels[positive]

    def overlap_loss(
        self, rows: Tensor, goal: Tensor, index: Tensor, start: int, width: int, stride: int
    ) -> Tensor:
        """1 - GIoU [N] of distances and their goals, around the points of cells of a level."""
        place = (index - start).clamp(min=0)
        points = torch.stack((place % width, place // width), 1) * stride + stride / 2.0
        return 1 - giou(boxes_around(points, rows), boxes_around(points, goal.clamp(min=0)))
