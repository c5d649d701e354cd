"""What the heads of DETR's line share: output, set loss and detections."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cupola import nn
from cupola.models.detr.postprocess import postprocess
from cupola.models.matching import match_inputs
from cupola.models.set_prediction import (
    QueryTargets,
    box_normalizer,
    class_loss,
    name_by_layer,
    query_targets,
    targets_by_layer,
)
from cupola.parallel import SINGLE, Group
from cupola.registry import MODELS, TASK_UTILS
from cupola.registry.budget import reserve
from cupola.structures import Detections
from cupola.structures import boxes as box_ops

Config = Mapping[str, Any]
Targets = Sequence[Mapping[str, Tensor]]
Sizes = Sequence[tuple[int, int]]

CLASS_LOSS: Config = {"type": "CrossEntropyLoss", "bg_cls_weight": 0.1, "class_weight": 1.0}
BOX_LOSS: Config = {"type": "L1Loss", "loss_weight": 5.0}
IOU_LOSS: Config = {"type": "GIoULoss", "loss_weight": 2.0}
BOX_COSTS: tuple[Config, ...] = (
    {"type": "BBoxL1Cost", "weight": 5.0, "box_format": "xywh"},
    {"type": "IoUCost", "iou_mode": "giou", "weight": 2.0},
)
SOFTMAX_COST: Config = {"type": "ClassificationCost", "weight": 1.0}
SIGMOID_COST: Config = {"type": "FocalLossCost", "weight": 2.0}


class DETROutput(NamedTuple):
    """logits [L, B, Q, C+1], background last; boxes [L, B, Q, 4], cxcywh in 0..1.

    One entry per decoder layer, the last layer last. With a class loss on sigmoid scores there is
    no background column: [L, B, Q, C].
    """

    logits: Tensor
    boxes: Tensor

    def at_least_float32(self) -> "DETROutput":
        """The same, half precision converted to float32."""
        return DETROutput(*(t.to(torch.promote_types(t.dtype, torch.float32)) for t in self))


class SetPredictionHead(nn.Module):
    """Abstract: losses and detections of DETROutputs; subclasses add layers and `forward`.

    Classes are scored by softmax with a background class, or, where `loss_cls` says so (FocalLoss),
    by one sigmoid each. Source: mmdet/models/dense_heads/detr_head.py; paper, equations 1 and 2.
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
        self.data_group: Group = SINGLE  # set by the trainer: the ranks that read other data
        self.test_cfg = dict(test_cfg or {"max_per_img": 100})
        loss_cls, self.background_weight = weigh_background(loss_cls, num_classes)
        sigmoid_by_default = getattr(MODELS.get(loss_cls["type"]), "use_sigmoid", False)
        self.use_sigmoid = bool(loss_cls.get("use_sigmoid", sigmoid_by_default))
        cost = SIGMOID_COST if self.use_sigmoid else SOFTMAX_COST
        default = {"type": "HungarianAssigner", "match_costs": [cost, *BOX_COSTS]}
        self.assigner = TASK_UTILS.build((train_cfg or {}).get("assigner", default))
        self.loss_cls = MODELS.build(loss_cls)
        self.loss_bbox = MODELS.build(loss_bbox)
        self.loss_iou = MODELS.build(loss_iou)
        self.build_layers(embed_dims, num_reg_fcs)

    def build_layers(self, embed_dims: int, num_reg_fcs: int) -> None:
        """The layers that compute classes and boxes from hidden states."""
        raise NotImplementedError

    def predict(
        self,
        output: DETROutput,
        sizes: Sizes,
        scale_factors: Sequence[Sequence[float] | None],
    ) -> list[Detections]:
        """Detections of every image from the last layer; see postprocess."""
        settings = {k: v for k, v in self.test_cfg.items() if k in ("max_per_img", "clamp")}
        logits, boxes = output.at_least_float32()
        images = zip(logits[-1], boxes[-1], sizes, scale_factors, strict=True)
        return [postprocess(*each, use_sigmoid=self.use_sigmoid, **settings) for each in images]

    def assign(self, output: DETROutput, targets: Targets, sizes: Sizes) -> list[QueryTargets]:
        """Per image the targets of every layer's queries, [L, Q].

        `targets` hold boxes [N, 4], xyxy in pixels, and labels [N]; sizes are (height, width).
        """
        output = output.at_least_float32()
        labels, boxes = self.normalized_targets(output, targets, sizes)
        matches = match_inputs(*output, labels, boxes, sizes)
        return [
            query_targets(assigned, match.target_labels, match.target_boxes, self.num_classes)
            for assigned, match in zip(self.assigner.assign(matches), matches, strict=True)
        ]

    @staticmethod
    def normalized_targets(
        output: DETROutput, targets: Targets, sizes: Sizes
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Per image the labels [N] and the boxes [N, 4], cxcywh in 0..1."""
        boxes = [
            box_ops.xyxy_to_cxcywh(box_ops.scale(target["boxes"].to(output.boxes), (1 / h, 1 / w)))
            for target, (h, w) in zip(targets, sizes, strict=True)
        ]
        return [target["labels"] for target in targets], boxes

    def loss(self, output: DETROutput, targets: Targets, sizes: Sizes) -> dict[str, Tensor]:
        """loss_cls, loss_bbox, loss_iou of the last layer, and d0., d1., ... of those before."""
        output = output.at_least_float32()
        layers = self.layer_targets(output, targets, sizes)
        return name_by_layer(
            [
                self.set_losses(logits, boxes, wanted, self.pixel_scales(boxes, sizes))
                for logits, boxes, wanted in zip(*output, layers, strict=True)
            ]
        )

    def layer_targets(
        self, output: DETROutput, targets: Targets, sizes: Sizes
    ) -> Sequence[QueryTargets]:
        """The targets of every layer's queries [B, Q]."""
        return targets_by_layer(self.assign(output, targets, sizes))

    @staticmethod
    def pixel_scales(boxes: Tensor, sizes: Sizes) -> Tensor:
        """The factors from 0..1 to pixels for boxes [B, Q, 4] of images of those sizes."""
        return boxes.new_tensor([[w, h, w, h] for h, w in sizes])[:, None].expand_as(boxes)

    def set_losses(
        self, logits: Tensor, boxes: Tensor, targets: QueryTargets, pixels: Tensor
    ) -> dict[str, Tensor]:
        """The losses of one layer: logits [B, Q, C], boxes [B, Q, 4], pixels as pixel_scales."""
        pixels = pixels[targets.positive]  # [P, 4]
        found, wanted = boxes[targets.positive], targets.boxes[targets.positive]  # [P, 4]
        corners = box_ops.cxcywh_to_xyxy(found) * pixels
        wanted_corners = box_ops.cxcywh_to_xyxy(wanted) * pixels
        normalizer = box_normalizer(targets, self.data_group)
        return {
            "loss_cls": self.class_loss(
                logits, targets, box_ops.iou(corners.detach(), wanted_corners)
            ),
            "loss_bbox": self.loss_bbox(found, wanted, avg_factor=normalizer),
            "loss_iou": self.loss_iou(corners, wanted_corners, avg_factor=normalizer),
        }

    def class_loss(self, logits: Tensor, targets: QueryTargets, quality: Tensor) -> Tensor:
        """The class loss of one layer's logits [B, Q, C]; quality [P] is the IoU of positives."""
        group = self.data_group if self.sync_cls_avg_factor else SINGLE
        return class_loss(
            self.loss_cls, logits, targets, self.background_weight, group, quality=quality
        )


def weigh_background(loss_cls: Config, num_classes: int) -> tuple[Config, float]:
    """The class loss's config with one weight per class, and the background's weight.

    The background takes `bg_cls_weight`, all others `class_weight`; where neither is given, all
    classes weigh the same and the background does not count in the average.
    """
    settings = dict(loss_cls)
    each, background = settings.pop("class_weight", None), settings.pop("bg_cls_weight", None)
    if each is None and background is None:
        return settings, 0.0
    each = 1.0 if each is None else each
    if not isinstance(each, (int, float)):
        raise ValueError(f"class_weight of a DETR head is one number, got {each!r}")
    background = float(each if background is None else background)
    reserve(num_classes)
    return {**settings, "class_weight": [float(each)] * num_classes + [background]}, background
