"""YOLOv3 and its head.

Letters: B images, C classes, A anchors of a cell, S anchors of all levels.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cupola import nn
from cupola.models.boxes.distances import centers
from cupola.models.dense import (
    Candidates,
    ImageSizes,
    SingleStageDetector,
    best_candidates,
    level_rows,
    suppress,
)
from cupola.models.dense.targets import Targets
from cupola.models.layers import ConvModule
from cupola.registry import MODELS, TASK_UTILS
from cupola.structures import Detections

Config = Mapping[str, Any]
Maps = Sequence[Tensor]
ANCHORS: Config = {
    "type": "YOLOAnchorGenerator",
    "base_sizes": [
        [(116, 90), (156, 198), (373, 326)],
        [(30, 61), (62, 45), (59, 119)],
        [(10, 13), (16, 30), (33, 23)],
    ],
    "strides": [32, 16, 8],
}
LEAKY: Config = {"type": "LeakyReLU", "negative_slope": 0.1}
BATCH_NORM: Config = {"type": "BN", "requires_grad": True}


@MODELS.register_module()
class YOLOV3(SingleStageDetector):
    """Source: mmdet/models/detectors/yolo.py."""


@MODELS.register_module()
class YOLOV3Head(nn.Module):
    """For each anchor the box (4), that of an object (1), and classes (C), by sigmoid.

    Losses are sums, weighted by the `loss_weight` of their configs.
    Source: mmdet/models/dense_heads/yolo_head.py.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: Sequence[int],
        out_channels: Sequence[int] = (1024, 512, 256),
        anchor_generator: Config = ANCHORS,
        bbox_coder: Config | None = None,
        featmap_strides: Sequence[int] = (32, 16, 8),
        one_hot_smoother: float = 0.0,
        conv_cfg: Config | None = None,
        norm_cfg: Config | None = BATCH_NORM,
        act_cfg: Config | None = LEAKY,
        loss_cls: Config | None = None,
        loss_conf: Config | None = None,
        loss_xy: Config | None = None,
        loss_wh: Config | None = None,
        train_cfg: Config | None = None,
        test_cfg: Config | None = None,
        init_cfg: Any = None,
    ) -> None:
        super().__init__()
        self.init_cfg = init_cfg
        self.num_classes, self.smoother = num_classes, one_hot_smoother
        self.strides = tuple(featmap_strides)
        self.bbox_coder = TASK_UTILS.build(bbox_coder or {"type": "YOLOBBoxCoder"})
        self.anchors = TASK_UTILS.build(anchor_generator)
        losses = {"cls": loss_cls, "conf": loss_conf, "xy": loss_xy, "wh": loss_wh}
        self.weights = {
            name: float((cfg or {}).get("loss_weight", 1)) for name, cfg in losses.items()
        }
        self.train_cfg, self.test_cfg = dict(train_cfg or {}), dict(test_cfg or {})
        self.assigner = TASK_UTILS.build(train_cfg["assigner"]) if train_cfg else None
        self.width = 5 + num_classes
        settings: dict[str, Any] = {"conv_cfg": conv_cfg, "norm_cfg": norm_cfg, "act_cfg": act_cfg}
        self.convs_bridge = nn.ModuleList(
            ConvModule(inputs, outputs, 3, padding=1, **settings)
            for inputs, outputs in zip(in_channels, out_channels, strict=True)
        )
        self.convs_pred = nn.ModuleList(
            nn.Conv2d(outputs, count * self.width, 1)
            for outputs, count in zip(out_channels, self.anchors.counts, strict=True)
        )

    def init_weights(self) -> None:
        """Normal initialization; scores begin at 0.01, an object's at 8 in an image of 608."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        layer: Any
        for layer, stride in zip(self.convs_pred, self.strides, strict=True):
            bias = layer.bias.detach().view(-1, self.width)
            bias[:, 4] = torch.logit(torch.tensor(8 / (608 / stride) ** 2))
            bias[:, 5:] = -4.59512

    def forward(self, maps: Maps) -> tuple[tuple[Tensor, ...]]:
        """Feature maps [B, C_i, h_i, w_i] -> predictions [B, A * (5 + C), h_i, w_i]."""
        layers = zip(self.convs_bridge, self.convs_pred, maps, strict=True)
        return (tuple(last(first(x)) for first, last, x in layers),)

    def _rows(self, output: tuple[Maps]) -> list[Tensor]:
        return [level_rows(each, self.width) for each in output[0]]

    def decoded(self, output: tuple[Maps]) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes [B, S, 4], scores of classes [B, S, C] and of an object [B, S]."""
        boxes, rows = [], self._rows(output)
        for anchors, row, stride in zip(self.anchors(output[0]), rows, self.strides, strict=True):
            parts = torch.cat((row[..., :2].sigmoid(), row[..., 2:4]), -1)
            boxes.append(self.bbox_coder.decode(anchors, parts, stride))
        joined = torch.cat(rows, 1)
        return torch.cat(boxes, 1), joined[..., 5:].sigmoid(), joined[..., 4].sigmoid()

    def scored_boxes(self, output: tuple[Maps]) -> tuple[Tensor, Tensor]:
        """Scores [B, S, C] and boxes [B, S, 4], xyxy in pixels, of all anchors."""
        boxes, scores, objectness = self.decoded(output)
        return scores * objectness[..., None], boxes

    def predict(
        self,
        output: tuple[Maps],
        sizes: Sequence[tuple[int, int]],
        scale_factors: Sequence[Sequence[float] | None],
    ) -> list[Detections]:
        """Detections of every image; boxes are not clipped, as in the original."""
        cfg, found = self.test_cfg, []
        for boxes, scores, objectness, factor in zip(
            *(each.float() for each in self.decoded(output)), scale_factors, strict=True
        ):
            if cfg.get("conf_thr", -1) > 0:
                keep = objectness >= cfg["conf_thr"]
                boxes, scores, objectness = boxes[keep], scores[keep], objectness[keep]
            limit = cfg.get("nms_pre", -1)
            best, where, labels = best_candidates(scores, cfg.get("score_thr", 0), limit)
            candidates = Candidates(boxes[where], best * objectness[where], labels)
            found.append(suppress(candidates, cfg, factor))
        return found

    def loss(self, output: tuple[Maps], targets: Targets, sizes: ImageSizes) -> dict[str, Tensor]:
        """loss_cls, loss_conf, loss_xy and loss_wh, summed over anchors."""
        if self.assigner is None:
            raise ValueError("the model's train_cfg is missing: it names the assigner")
        levels = self.anchors(output[0])
        anchors = torch.cat(levels)
        strides = torch.cat(
            [each.new_full((len(each),), s) for each, s in zip(levels, self.strides, strict=True)]
        )
        sums = dict.fromkeys(self.weights, anchors.new_zeros(()))
        for row, target in zip(torch.cat(self._rows(output), 1), targets, strict=True):
            objects = target["boxes"].to(anchors)
            found = self.assigner(anchors, objects, self.responsible(output[0], objects))
            positive = found.objects >= 0
            owner = found.objects[positive]
            wanted = self.bbox_coder.encode(anchors[positive], objects[owner], strides[positive])
            classes = F.one_hot(target["labels"][owner], self.num_classes).to(row)
            if self.smoother:
                classes = classes * (1 - self.smoother) + self.smoother / self.num_classes
            used = positive | (found.objects == -1)
            mine = row[positive]
            each = {
                "cls": _binary(mine[:, 5:], classes),
                "conf": _binary(row[used, 4], positive[used].to(row)),
                "xy": _binary(mine[:, :2], wanted[:, :2]),
                "wh": (mine[:, 2:4] - wanted[:, 2:]).square().sum(),
            }
            sums = {name: sums[name] + value for name, value in each.items()}
        return {f"loss_{name}": self.weights[name] * value for name, value in sums.items()}

    def responsible(self, maps: Maps, boxes: Tensor) -> Tensor:
        """Which anchors [S] are of a cell that holds the center of a box [N, 4], bool."""
        found = []
        for x, stride, count in zip(maps, self.anchors.strides, self.anchors.counts, strict=True):
            h, w = x.shape[-2:]
            cell = (centers(boxes) / boxes.new_tensor(stride)).long()
            column, row = cell[:, 0].clamp(0, w - 1), cell[:, 1].clamp(0, h - 1)
            marks = torch.zeros(h * w, dtype=torch.bool, device=x.device)
            marks[row * w + column] = True
            found.append(marks[:, None].expand(-1, count).flatten())
        return torch.cat(found)


def _binary(logits: Tensor, targets: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="sum")
