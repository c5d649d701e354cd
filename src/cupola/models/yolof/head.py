"""YOLOF and its head.

Letters: B images, C classes, A anchors of a cell, S anchors, P pairs that train boxes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from cupola import nn
from cupola.models.boxes.assigning import NEGATIVE
from cupola.models.dense import AnchorHead, DenseOutput, ImageSizes, SingleStageDetector
from cupola.models.dense.stacks import stack
from cupola.models.dense.targets import usable_anchors
from cupola.models.yolof.assigning import UniformAssigner
from cupola.registry import MODELS

Config = Mapping[str, Any]
BATCH_NORM: Config = {"type": "BN", "requires_grad": True}
BACKGROUND = -4.59512  # the logit of a score of 0.01
MOST = 1e8  # of an exponential


@MODELS.register_module()
class YOLOF(SingleStageDetector):
    """Source: mmdet/models/detectors/yolof.py."""


@MODELS.register_module()
class YOLOFHead(AnchorHead):
    """Two stacks on one level; scores are those of a class times that of an object.

    Source: mmdet/models/dense_heads/yolof_head.py.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        num_cls_convs: int = 2,
        num_reg_convs: int = 4,
        norm_cfg: Config | None = BATCH_NORM,
        **options: Any,
    ) -> None:
        super().__init__(num_classes, in_channels, **options)
        self.init_cfg = None
        if len(self.anchors.strides) != 1:
            raise ValueError("YOLOFHead has one level: set one stride")
        channels, count = self.in_channels, self.anchors.counts[0]
        settings = (channels, channels, None, norm_cfg)
        self.cls_subnet = nn.Sequential(*stack(num_cls_convs, *settings))
        self.bbox_subnet = nn.Sequential(*stack(num_reg_convs, *settings))
        self.cls_score = nn.Conv2d(channels, count * num_classes, 3, padding=1)
        self.bbox_pred = nn.Conv2d(channels, count * 4, 3, padding=1)
        self.object_pred = nn.Conv2d(channels, count, 3, padding=1)

    def init_weights(self) -> None:
        """Normal initialization; class scores begin at 0.01."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        if self.cls_score.bias is not None:
            nn.init.constant_(self.cls_score.bias, BACKGROUND)

    def level(self, x: Tensor) -> tuple[Tensor, ...]:
        """A map [B, in_channels, h, w] -> logits [B, A * C, h, w], deltas [B, A * 4, h, w]."""
        for_box = self.bbox_subnet(x)
        logits = self.cls_score(self.cls_subnet(x)).unflatten(1, (-1, self.num_classes))
        objectness = self.object_pred(for_box)[:, :, None]  # [B, A, 1, h, w]
        # The logit of the product of both scores.
        sums = 1 + logits.exp().clamp(max=MOST) + objectness.exp().clamp(max=MOST)
        joined = logits + objectness - sums.log()
        return joined.flatten(1, 2), self.bbox_pred(for_box)

    def loss(
        self, output: DenseOutput, targets: Sequence[Mapping[str, Tensor]], sizes: ImageSizes
    ) -> dict[str, Tensor]:
        """loss_cls and loss_bbox; targets hold boxes [N, 4], xyxy in pixels, and labels [N]."""
        if not isinstance(self.assigner, UniformAssigner):
            raise ValueError("YOLOF's train_cfg.assigner is UniformAssigner")
        anchors = self.anchors(output.logits)[0]
        border = self.train_cfg.get("allowed_border", -1)
        usable = usable_anchors(self.anchors, output.logits, anchors, sizes, border)
        logits, deltas = self.joined(output)
        labels, chosen, found, goal = [], [], [], []
        count = 0
        for use, delta, target in zip(usable, deltas, targets, strict=True):
            objects = target["boxes"].to(anchors)
            boxes = self.bbox_coder.decode(anchors[use], delta[use])
            pairs = self.assigner(anchors[use], boxes.detach(), objects)
            positive = pairs.owners >= 0
            label = torch.full_like(pairs.owners, self.num_classes)
            label[positive] = target["labels"][pairs.owners[positive]]
            labels.append(label)
            sampled = torch.zeros_like(use)
            sampled[use] = positive | (pairs.owners == NEGATIVE)
            chosen.append((sampled, sampled[use]))
            found.append(boxes[pairs.anchors[pairs.used]])
            goal.append(objects[pairs.objects[pairs.used]])
            count += max(int(positive.sum()), 1)
        average = self.average(float(count))
        rows = torch.cat([each[mark] for each, (mark, _) in zip(logits, chosen, strict=True)])
        wanted = torch.cat([each[mark] for each, (_, mark) in zip(labels, chosen, strict=True)])
        weight = None
        if (factor := self.train_cfg.get("pos_weight", -1)) > 0:
            weight = torch.where(wanted < self.num_classes, float(factor), 1.0)
        loss_cls = self.loss_cls(rows, wanted, weight, avg_factor=average)
        boxes, objects = torch.cat(found), torch.cat(goal)
        if not len(boxes):
            return {"loss_cls": loss_cls, "loss_bbox": deltas.sum() * 0}
        return {
            "loss_cls": loss_cls,
            "loss_bbox": self.loss_bbox(boxes, objects, avg_factor=average),
        }
