"""SABLRetinaHead: a RetinaNet whose boxes are found side by side.

Letters: B images, C classes, S cells of all levels, K buckets of a side.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from cupola import nn
from cupola.models.dense import (
    AnchorHead,
    Candidates,
    DenseOutput,
    ImageSizes,
    best_of_levels,
    level_rows,
    suppress,
)
from cupola.models.dense.stacks import apply, initial, stack
from cupola.models.dense.targets import Targets, anchor_targets
from cupola.models.guided_anchoring.head import approximating
from cupola.registry import MODELS
from cupola.structures import Detections

Config = Mapping[str, Any]
STRIDES = [8, 16, 32, 64, 128]
APPROXES: Config = {
    "type": "AnchorGenerator",
    "octave_base_scale": 4,
    "scales_per_octave": 3,
    "ratios": [0.5, 1.0, 2.0],
    "strides": STRIDES,
}
SQUARES: Config = {"type": "AnchorGenerator", "ratios": [1.0], "scales": [4], "strides": STRIDES}
CODER: Config = {"type": "BucketingBBoxCoder", "num_buckets": 14, "scale_factor": 3.0}
FOCAL: Config = {"type": "FocalLoss", "use_sigmoid": True}
BUCKET_LOSS: Config = {"type": "CrossEntropyLoss", "use_sigmoid": True, "loss_weight": 1.5}
OFFSET_LOSS: Config = {"type": "SmoothL1Loss", "beta": 1 / 9, "loss_weight": 1.5}


@MODELS.register_module()
class SABLRetinaHead(AnchorHead):
    """One square a cell, whose sides are moved; objects are assigned as to guided anchors.

    Source: mmdet/models/dense_heads/sabl_retina_head.py.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        stacked_convs: int = 4,
        approx_anchor_generator: Config = APPROXES,
        square_anchor_generator: Config = SQUARES,
        conv_cfg: Config | None = None,
        norm_cfg: Config | None = None,
        bbox_coder: Config = CODER,
        loss_cls: Config = FOCAL,
        loss_bbox_cls: Config = BUCKET_LOSS,
        loss_bbox_reg: Config = OFFSET_LOSS,
        init_cfg: Any = None,
        **options: Any,
    ) -> None:
        super().__init__(
            num_classes,
            in_channels,
            anchor_generator=square_anchor_generator,
            bbox_coder=bbox_coder,
            loss_cls=loss_cls,
            init_cfg=init_cfg or initial("retina_cls"),
            **options,
        )
        self.approxes = approximating(approx_anchor_generator, self.anchors)
        self.loss_bbox_cls = MODELS.build(loss_bbox_cls)
        self.loss_bbox_reg = MODELS.build(loss_bbox_reg)
        numbers = 4 * self.bbox_coder.side_num
        self.box_width = 2 * numbers
        settings = (stacked_convs, in_channels, self.feat_channels, conv_cfg, norm_cfg)
        self.cls_convs, self.reg_convs = stack(*settings), stack(*settings)
        channels = self.feat_channels if stacked_convs else in_channels
        self.retina_cls = nn.Conv2d(channels, self.cls_channels, 3, padding=1)
        self.retina_bbox_reg = nn.Conv2d(channels, numbers, 3, padding=1)
        self.retina_bbox_cls = nn.Conv2d(channels, numbers, 3, padding=1)

    def level(self, x: Tensor) -> tuple[Tensor, ...]:
        """A map [B, in_channels, h, w] -> logits, buckets and offsets [B, 8 * K, h, w]."""
        for_class, for_box = apply(self.cls_convs, x), apply(self.reg_convs, x)
        boxes = torch.cat((self.retina_bbox_cls(for_box), self.retina_bbox_reg(for_box)), 1)
        return self.retina_cls(for_class), boxes

    def scored_boxes(self, output: DenseOutput) -> tuple[Tensor, Tensor]:
        """Scores [B, S, C] times the confidence of the box, and boxes [B, S, 4] of all cells."""
        logits, rows = self.joined(output)
        boxes, confidence = self.bbox_coder.decode(torch.cat(self.anchors(output.logits)), rows)
        return self.scores(logits) * confidence[..., None], boxes

    def predict(
        self,
        output: DenseOutput,
        sizes: Sequence[tuple[int, int]],
        scale_factors: Sequence[Sequence[float] | None],
    ) -> list[Detections]:
        """Detections of every image whose (height, width) without padding are `sizes`."""
        anchors = self.anchors(output.logits)
        logits = [level_rows(each, self.cls_channels).float() for each in output.logits]
        rows = [level_rows(each, self.box_width).float() for each in output.boxes]
        found = []
        for i, (size, factor) in enumerate(zip(sizes, scale_factors, strict=True)):
            scores = [self.scores(each[i]) for each in logits]
            places, score, labels = best_of_levels(scores, None, self.test_cfg)
            chosen = torch.cat([level[where] for level, where in zip(anchors, places, strict=True)])
            row = torch.cat([level[i][where] for level, where in zip(rows, places, strict=True)])
            boxes, confidence = self.bbox_coder.decode(chosen, row, size)
            found.append(
                suppress(Candidates(boxes, score * confidence, labels), self.test_cfg, factor)
            )
        return found

    def loss(self, output: DenseOutput, targets: Targets, sizes: ImageSizes) -> dict[str, Tensor]:
        """loss_cls, loss_bbox_cls and loss_bbox_reg of a batch."""
        if self.assigner is None:
            raise ValueError("the model's train_cfg is missing: it names the assigner")
        border = self.train_cfg.get("allowed_border", -1)
        usable = self.approxes.usable(output.logits, sizes, border)
        counts = [level.shape[-2:].numel() for level in output.logits]
        wanted = anchor_targets(
            self.approxes(output.logits), usable, counts, targets, self.assigner, self.sampler
        )
        logits, rows = self.joined(output)
        squares = torch.cat(self.anchors(output.logits)).expand(len(rows), -1, -1)
        goal = self.bbox_coder.encode(squares[wanted.positive], wanted.boxes)
        count = wanted.average
        buckets, offsets = rows[wanted.positive].chunk(2, 1)
        return {
            "loss_cls": self.sampled_class_loss(logits, wanted),
            "loss_bbox_cls": self.loss_bbox_cls(
                buckets, goal.nearest, goal.nearest_weights, avg_factor=count * buckets.shape[1]
            ),
            "loss_bbox_reg": self.loss_bbox_reg(
                offsets,
                goal.offsets,
                goal.offset_weights,
                avg_factor=count * 4 * self.bbox_coder.topk,
            ),
        }
