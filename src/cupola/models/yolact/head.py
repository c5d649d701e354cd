"""YOLACTHead.

Letters: B images, C classes, A anchors of a cell, S anchors of all levels, K prototypes.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cupola import nn
from cupola.models.dense import AnchorHead, level_rows
from cupola.models.dense.anchor_head import joined_levels
from cupola.models.dense.stacks import apply, stack
from cupola.models.dense.targets import AnchorTargets, ImageSizes, Targets
from cupola.models.ssd.head import with_hardest
from cupola.ops.nms import fast_nms
from cupola.registry import MODELS
from cupola.structures import Detections

Config = Mapping[str, Any]
Size = tuple[int, int]
ANCHORS: Config = {
    "type": "AnchorGenerator",
    "octave_base_scale": 3,
    "scales_per_octave": 1,
    "ratios": [0.5, 1.0, 2.0],
    "strides": [8, 16, 32, 64, 128],
}
CLASS_LOSS: Config = {"type": "CrossEntropyLoss", "use_sigmoid": False}
BOX_LOSS: Config = {"type": "SmoothL1Loss", "beta": 1.0, "loss_weight": 1.5}
XAVIER: Config = {"type": "Xavier", "layer": "Conv2d", "distribution": "uniform", "bias": 0}


class CoefficientOutput(NamedTuple):
    """DenseOutput with the coefficients [B, A * K, h_i, w_i] of every level, -1..1."""

    logits: tuple[Tensor, ...]
    boxes: tuple[Tensor, ...]
    coefficients: tuple[Tensor, ...]
    qualities: None = None


@MODELS.register_module()
class YOLACTHead(AnchorHead):
    """Classes by softmax, boxes and coefficients, from the same convolutions.

    An image's negatives are its hardest, `neg_pos_ratio` for each positive anchor.
    Source: mmdet/models/dense_heads/yolact_head.py.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        anchor_generator: Config = ANCHORS,
        loss_cls: Config = CLASS_LOSS,
        loss_bbox: Config = BOX_LOSS,
        num_head_convs: int = 1,
        num_protos: int = 32,
        use_ohem: bool = True,
        conv_cfg: Config | None = None,
        norm_cfg: Config | None = None,
        init_cfg: Any = XAVIER,
        **options: Any,
    ) -> None:
        super().__init__(
            num_classes,
            in_channels,
            anchor_generator=anchor_generator,
            loss_cls={**loss_cls, "reduction": "mean"},  # configs ask for none: it is mined here
            loss_bbox=loss_bbox,
            init_cfg=init_cfg,
            **options,
        )
        if not use_ohem or self.use_sigmoid:
            raise ValueError("YOLACTHead trains with use_ohem=True and a softmax loss_cls")
        self.num_prototypes = num_protos
        width, count = self.feat_channels, self.anchors.counts[0]
        self.head_convs = stack(num_head_convs, in_channels, width, conv_cfg, norm_cfg)
        self.conv_cls = nn.Conv2d(width, count * self.cls_channels, 3, padding=1)
        self.conv_reg = nn.Conv2d(width, count * 4, 3, padding=1)
        self.conv_coeff = nn.Conv2d(width, count * num_protos, 3, padding=1)

    def forward(self, maps: Sequence[Tensor]) -> Any:
        """Feature maps [B, in_channels, h_i, w_i] -> CoefficientOutput."""
        logits, deltas, rows = zip(*(self.level(each) for each in maps), strict=True)
        return CoefficientOutput(logits, deltas, rows)

    def level(self, x: Tensor) -> tuple[Tensor, ...]:
        """A map [B, in_channels, h, w] -> logits, deltas and coefficients."""
        x = apply(self.head_convs, x)
        return self.conv_cls(x), self.conv_reg(x), self.conv_coeff(x).tanh()

    def loss_and_positives(
        self, output: Any, targets: Targets, sizes: ImageSizes
    ) -> tuple[dict[str, Tensor], list[tuple[Tensor, Tensor]]]:
        """loss_cls and loss_bbox; of every image the coefficients [P, K] and objects [P]."""
        wanted = self.targets(output, targets, sizes)
        losses = self.losses_of(*self.joined(output), wanted)
        rows = joined_levels(output.coefficients, self.num_prototypes)
        owners = torch.split(wanted.objects, wanted.positive.sum(1).tolist())
        marks = zip(rows, wanted.positive, owners, strict=True)
        return losses, [(row[mark], owner) for row, mark, owner in marks]

    def sampled_class_loss(self, logits: Tensor, wanted: AnchorTargets) -> Tensor:
        """The loss of positive anchors and the hardest others, all where there are no objects."""
        labels = torch.full_like(wanted.positive, self.num_classes, dtype=torch.int64)
        labels[wanted.positive] = wanted.labels
        each = self.loss_cls.each(logits.flatten(0, 1), labels.flatten()).view(labels.shape)
        each = self.loss_cls.loss_weight * each * (wanted.positive | wanted.negative)  # [B, S]
        ratio = self.train_cfg["neg_pos_ratio"]
        return with_hardest(each, wanted.positive, ratio, all_of_empty=True) / wanted.average

    def detect(self, output: Any, sizes: Sequence[Size]) -> list[tuple[Detections, Tensor]]:
        """Detections of every image, in pixels of the input, and their coefficients [N, K]."""
        anchors = self.anchors(output.logits)
        levels = [
            (level_rows(logits, self.cls_channels), level_rows(deltas, 4), level_rows(rows, k))
            for k in (self.num_prototypes,)
            for logits, deltas, rows in zip(*output[:3], strict=True)
        ]
        return [self._detect(anchors, levels, i, size) for i, size in enumerate(sizes)]

    def _detect(
        self, anchors: list[Tensor], levels: Sequence[tuple[Tensor, ...]], image: int, size: Size
    ) -> tuple[Detections, Tensor]:
        """The `nms_pre` best anchors of every level, through fast NMS."""
        parts = []
        for priors, level in zip(anchors, levels, strict=True):
            logits, deltas, rows = (each[image].float() for each in level)
            scores = self.scores(logits)
            limit = self.test_cfg.get("nms_pre", -1)
            if 0 < limit < len(scores):
                best = scores.amax(1).topk(limit).indices
                priors, deltas, scores, rows = priors[best], deltas[best], scores[best], rows[best]
            parts.append((self.decode(priors, deltas, 0, size), scores, rows))
        boxes, scores, rows = (torch.cat(each) for each in zip(*parts, strict=True))
        kept, labels, values = fast_nms(
            boxes,
            scores,
            self.test_cfg["iou_thr"],
            self.test_cfg["score_thr"],
            self.test_cfg["top_k"],
            self.test_cfg.get("max_per_img", -1),
        )
        return Detections(boxes[kept], values, labels), rows[kept]
