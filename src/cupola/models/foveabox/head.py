"""FoveaBox and its head.

Letters: B images, C classes, S cells of all levels, P positive cells.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cupola import nn
from cupola.models.boxes.deltas import clip
from cupola.models.boxes.distances import boxes_around, centers, distances
from cupola.models.dense import AnchorHead, DenseOutput, ImageSizes, SingleStageDetector
from cupola.models.dense.stacks import apply, initial, stack
from cupola.models.layers import ConvModule
from cupola.models.layers.deform_conv import DeformConv2d
from cupola.registry import MODELS

Config = Mapping[str, Any]
Targets = Sequence[Mapping[str, Tensor]]

STRIDES = (4, 8, 16, 32, 64)
EDGES = (16, 32, 64, 128, 256)
RANGES = ((8, 32), (16, 64), (32, 128), (64, 256), (128, 512))
MOST = 16.0  # times the base edge that a distance trains, and the inverse


@MODELS.register_module()
class FOVEA(SingleStageDetector):
    """Source: mmdet/models/detectors/fovea.py."""


@MODELS.register_module()
class FoveaHead(AnchorHead):
    """Predictions of boxes are logs of distances over the level's edge in `base_edge_list`.

    A level is for objects with the root of their area in its range of `scale_ranges`; the cells
    in the middle of the box, `sigma` of its sides, are positive. With `with_deform` the classes'
    stack is wide, and starts with a deformable convolution whose offsets come from the boxes.
    Source: mmdet/models/dense_heads/fovea_head.py.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        stacked_convs: int = 4,
        strides: Sequence[int] = STRIDES,
        base_edge_list: Sequence[float] = EDGES,
        scale_ranges: Sequence[Sequence[float]] = RANGES,
        sigma: float = 0.4,
        with_deform: bool = False,
        deform_groups: int = 4,
        conv_cfg: Config | None = None,
        norm_cfg: Config | None = None,
        init_cfg: Any = None,
        **options: Any,
    ) -> None:
        super().__init__(
            num_classes,
            in_channels,
            anchor_generator={"type": "MlvlPointGenerator", "strides": list(strides)},
            init_cfg=init_cfg or initial("conv_cls"),
            **options,
        )
        if not len(strides) == len(base_edge_list) == len(scale_ranges):
            raise ValueError("strides, base_edge_list and scale_ranges have one entry per level")
        self.edges, self.ranges, self.sigma = tuple(base_edge_list), tuple(scale_ranges), sigma
        channels, norms = self.feat_channels, {"conv_cfg": conv_cfg, "norm_cfg": norm_cfg}
        self.reg_convs = stack(stacked_convs, in_channels, channels, conv_cfg, norm_cfg)
        self.conv_reg = nn.Conv2d(channels, 4, 3, padding=1)
        self.feature_adaption = None
        if with_deform:
            first = ConvModule(channels, channels * 4, 3, padding=1, **norms)  # type: ignore[arg-type]
            second = ConvModule(channels * 4, channels * 4, 1, **norms)  # type: ignore[arg-type]
            self.cls_convs = nn.ModuleList([first, second])
            self.feature_adaption = FeatureAlign(channels, channels, 3, deform_groups)
            channels *= 4
        else:
            self.cls_convs = stack(stacked_convs, in_channels, channels, conv_cfg, norm_cfg)
        self.conv_cls = nn.Conv2d(channels, self.cls_channels, 3, padding=1)

    def level(self, x: Tensor) -> tuple[Tensor, ...]:
        """A map [B, in_channels, h, w] -> logits [B, C, h, w], logs of distances [B, 4, h, w]."""
        sides = self.conv_reg(apply(self.reg_convs, x))
        if self.feature_adaption is not None:
            x = self.feature_adaption(x, sides.exp())
        return self.conv_cls(apply(self.cls_convs, x)), sides

    def decode(
        self, anchors: Tensor, rows: Tensor, stride: int, size: tuple[int, int] | None = None
    ) -> Tensor:
        """Cells [..., 4], logs of distances [..., 4] -> boxes [..., 4], within the last pixels."""
        level = [each for each, _ in self.anchors.strides].index(stride)
        boxes = boxes_around(centers(anchors), self.edges[level] * rows.exp())
        return boxes if size is None else clip(boxes, size, 1.0)

    def loss(self, output: DenseOutput, targets: Targets, sizes: ImageSizes) -> dict[str, Tensor]:
        """loss_cls and loss_bbox; targets hold boxes [N, 4], xyxy in pixels, and labels [N]."""
        found = [self.wanted(output.logits, each) for each in targets]
        labels = torch.stack([each for each, _ in found])  # [B, S]
        logits, rows = self.joined(output)
        positive = labels < self.num_classes
        count = int(positive.sum())
        loss_cls = self.loss_cls(
            logits.flatten(0, 1), labels.flatten(), avg_factor=count + len(labels)
        )
        if not count:
            return {"loss_cls": loss_cls, "loss_bbox": rows.sum() * 0}
        goal = torch.stack([each for _, each in found])[positive]  # [P, 4]
        loss_bbox = self.loss_bbox(rows[positive], goal, avg_factor=count)
        return {"loss_cls": loss_cls, "loss_bbox": loss_bbox}

    def wanted(self, maps: Sequence[Tensor], target: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Labels [S] of one image's cells, num_classes for none, and logs of distances [S, 4].

        Of several objects a cell is for the smallest.
        """
        boxes = target["boxes"].to(maps[0])
        magnitude = (boxes[:, 2:] - boxes[:, :2]).prod(1).sqrt()
        labels, goals = [], []
        for i, points in enumerate(self.anchors(maps)):
            height, width = maps[i].shape[-2:]
            label = torch.full((height, width), self.num_classes, device=boxes.device)
            goal = boxes.new_ones(height, width, 4)
            places = centers(points).view(height, width, 2)
            low, high = self.ranges[i]
            usable = ((magnitude >= low) & (magnitude <= high)).nonzero()[:, 0]
            usable = usable[magnitude[usable].argsort(descending=True, stable=True)]
            middle = self.middle(boxes[usable] / self.anchors.strides[i][0], height, width)
            for number, (left, top, right, bottom) in zip(usable, middle.tolist(), strict=True):
                here = (slice(top, bottom + 1), slice(left, right + 1))
                label[here] = target["labels"][number]
                goal[here] = distances(places[here], boxes[number]) / self.edges[i]
            labels.append(label.flatten())
            goals.append(goal.clamp(1 / MOST, MOST).log().flatten(0, 1))
        return torch.cat(labels), torch.cat(goals)

    def middle(self, boxes: Tensor, height: int, width: int) -> Tensor:
        """Boxes [N, 4] in cells -> first and last cells of their middles [N, 4], (x, y, x, y)."""
        half = (boxes[:, 2:] - boxes[:, :2]) / 2
        low, most = boxes[:, :2] - 0.5, boxes.new_tensor([width - 1, height - 1])
        first = (low + (1 - self.sigma) * half).ceil().clamp(min=0)
        last = (low + (1 + self.sigma) * half).floor().clamp(min=0)
        return torch.cat((torch.minimum(first, most), torch.minimum(last, most)), 1).long()


class FeatureAlign(nn.Module):
    """A deformable convolution whose offsets come from the distances of boxes."""

    def __init__(self, in_channels: int, channels: int, kernel_size: int, groups: int) -> None:
        super().__init__()
        last = {"type": "Normal", "name": "conv_adaption", "std": 0.01}
        self.init_cfg = {"type": "Normal", "layer": "Conv2d", "std": 0.1, "override": last}
        offsets = groups * kernel_size**2 * 2
        self.conv_offset = nn.Conv2d(4, offsets, 1, bias=False)
        self.conv_adaption = DeformConv2d(
            in_channels, channels, kernel_size, padding=kernel_size // 2, deform_groups=groups
        )

    def forward(self, x: Tensor, sides: Tensor) -> Tensor:
        """A map [B, in_channels, h, w] and distances [B, 4, h, w] -> [B, channels, h, w]."""
        return F.relu(self.conv_adaption(x, self.conv_offset(sides)))
