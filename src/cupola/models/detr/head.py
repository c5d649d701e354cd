"""DETR's head: class and box of every query, and the set loss that trains them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cupola import nn
from cupola.models.layers import FFN
from cupola.models.losses import mean_over_ranks
from cupola.models.matching import MatchInputs
from cupola.registry import MODELS, TASK_UTILS
from cupola.structures import boxes as box_ops

Config = Mapping[str, Any]
CLASS_LOSS: Config = {"type": "CrossEntropyLoss", "bg_cls_weight": 0.1, "class_weight": 1.0}
BOX_LOSS: Config = {"type": "L1Loss", "loss_weight": 5.0}
IOU_LOSS: Config = {"type": "GIoULoss", "loss_weight": 2.0}
ASSIGNER: Config = {
    "type": "HungarianAssigner",
    "match_costs": [
        {"type": "ClassificationCost", "weight": 1.0},
        {"type": "BBoxL1Cost", "weight": 5.0, "box_format": "xywh"},
        {"type": "IoUCost", "iou_mode": "giou", "weight": 2.0},
    ],
}


class DETROutput(NamedTuple):
    """logits [L, B, Q, C+1], background last; boxes [L, B, Q, 4], cxcywh in 0..1.

    One entry per decoder layer, the last layer last.
    """

    logits: Tensor
    boxes: Tensor


@dataclass(frozen=True)
class Assignment:
    """What each query of one image should say, for every decoder layer.

    labels [L, Q] (background = num_classes); positive [L, Q] bool; boxes [L, Q, 4], cxcywh in
    0..1; size (height, width) in pixels.
    """

    labels: Tensor
    positive: Tensor
    boxes: Tensor
    size: tuple[int, int]


@MODELS.register_module()
class DETRHead(nn.Module):
    """hidden [L, B, Q, C] -> DETROutput, and its losses.

    Source: mmdet/models/dense_heads/detr_head.py; paper, equations 1 and 2.
    """

    def __init__(
        self,
        num_classes: int,
        embed_dims: int = 256,
        num_reg_fcs: int = 2,
        sync_cls_avg_factor: bool = False,
        loss_cls: Config = CLASS_LOSS,
        loss_bbox: Config = BOX_LOSS,
        loss_iou: Config = IOU_LOSS,
        train_cfg: Config | None = None,
        test_cfg: Config | None = None,
        init_cfg: Any = None,
    ) -> None:
        super().__init__()
        self.init_cfg = init_cfg
        self.num_classes = num_classes
        self.sync_cls_avg_factor = sync_cls_avg_factor
        self.test_cfg = dict(test_cfg or {"max_per_img": 100})
        self.assigner = TASK_UTILS.build((train_cfg or {}).get("assigner", ASSIGNER))
        self.loss_cls = MODELS.build(loss_cls)
        self.loss_bbox = MODELS.build(loss_bbox)
        self.loss_iou = MODELS.build(loss_iou)
        self.background_weight = self.loss_cls.bg_cls_weight or 0.0
        if self.background_weight:
            each = float(self.loss_cls.class_weight or 1.0)
            self.loss_cls.class_weight = [each] * num_classes + [self.background_weight]
        self.fc_cls = nn.Linear(embed_dims, num_classes + 1)
        self.activate = nn.ReLU()
        self.reg_ffn = FFN(
            embed_dims, embed_dims, num_fcs=num_reg_fcs, ffn_drop=0.0, add_identity=False
        )
        self.fc_reg = nn.Linear(embed_dims, 4)

    def forward(self, hidden: Tensor) -> DETROutput:
        """hidden [L, B, Q, C], normed -> logits and boxes of every layer."""
        boxes = self.fc_reg(self.activate(self.reg_ffn(hidden))).sigmoid()
        return DETROutput(self.fc_cls(hidden), boxes)

    def assign(
        self,
        output: DETROutput,
        targets: Sequence[Mapping[str, Tensor]],
        sizes: Sequence[tuple[int, int]],
    ) -> list[Assignment]:
        """Matches every decoder layer on its own; targets hold boxes xyxy in pixels, labels."""
        matches = []
        for index, (target, size) in enumerate(zip(targets, sizes, strict=True)):
            unit = box_ops.scale(target["boxes"].float(), (1 / size[0], 1 / size[1]))
            matches.append(
                MatchInputs(
                    output.logits[:, index].float(),
                    output.boxes[:, index].float(),
                    target["labels"],
                    box_ops.xyxy_to_cxcywh(unit),
                    size,
                )
            )
        assigned = self.assigner.assign(matches)
        return [self._targets(match, index) for match, index in zip(matches, assigned, strict=True)]

    def _targets(self, match: MatchInputs, assigned: Tensor) -> Assignment:
        positive = assigned >= 0  # [L, Q]
        labels = torch.full_like(assigned, self.num_classes)
        boxes = match.boxes.new_zeros(*assigned.shape, 4)
        labels[positive] = match.target_labels[assigned[positive]]
        boxes[positive] = match.target_boxes[assigned[positive]]
        return Assignment(labels, positive, boxes, match.image_size)

    def loss(
        self,
        output: DETROutput,
        targets: Sequence[Mapping[str, Tensor]],
        sizes: Sequence[tuple[int, int]],
    ) -> dict[str, Tensor]:
        """loss_cls, loss_bbox, loss_iou of the last layer, and d0., d1., ... of those before."""
        assignments = self.assign(output, targets, sizes)
        layers = len(output.logits)
        losses = {}
        for layer in range(layers):
            prefix = "" if layer == layers - 1 else f"d{layer}."
            parts = self._layer_loss(
                output.logits[layer].float(), output.boxes[layer].float(), assignments, layer
            )
            losses.update({prefix + name: value for name, value in parts.items()})
        return losses

    def _layer_loss(
        self, logits: Tensor, boxes: Tensor, assignments: list[Assignment], layer: int
    ) -> dict[str, Tensor]:
        labels = torch.stack([each.labels[layer] for each in assignments])  # [B, Q]
        positive = torch.stack([each.positive[layer] for each in assignments])
        goals = torch.stack([each.boxes[layer] for each in assignments])  # [B, Q, 4]
        pixels = boxes.new_tensor([[w, h, w, h] for h, w in (a.size for a in assignments)])
        pixels = pixels[:, None].expand_as(boxes)[positive]  # [P, 4]

        count = float(positive.sum())
        class_factor = count + self.background_weight * (positive.numel() - count)
        if self.sync_cls_avg_factor:
            class_factor = mean_over_ranks(class_factor, logits.device)
        box_factor = max(mean_over_ranks(count, logits.device), 1.0)

        found, wanted = boxes[positive], goals[positive]  # [P, 4]
        return {
            "loss_cls": self.loss_cls(
                logits.flatten(0, 1), labels.flatten(), avg_factor=max(class_factor, 1.0)
            ),
            "loss_bbox": self.loss_bbox(found, wanted, avg_factor=box_factor),
            "loss_iou": self.loss_iou(
                box_ops.cxcywh_to_xyxy(found) * pixels,
                box_ops.cxcywh_to_xyxy(wanted) * pixels,
                avg_factor=box_factor,
            ),
        }
