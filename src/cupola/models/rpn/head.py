"""RPNHead: how likely each anchor holds an object, and its box.

Letters: B images, A anchors of a cell, P proposals of an image.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cupola import nn
from cupola.models.dense import (
    AnchorHead,
    Candidates,
    DenseOutput,
    ImageSizes,
    level_rows,
    suppress,
)
from cupola.models.dense.targets import Targets
from cupola.models.layers import ConvModule
from cupola.ops.nms import nms_mask
from cupola.registry import MODELS
from cupola.structures import Detections

Config = Mapping[str, Any]
Sizes = Sequence[tuple[int, int]]
Factors = Sequence[Sequence[float] | None]


@MODELS.register_module()
class RPNHead(AnchorHead):
    """A 3x3 convolution (or `num_convs`), then one of 1x1 each for objectness and deltas.

    Source: mmdet/models/dense_heads/rpn_head.py.
    """

    def __init__(
        self, in_channels: int, num_classes: int = 1, num_convs: int = 1, **settings: Any
    ) -> None:
        if num_classes != 1:
            raise ValueError(f"RPNHead has the class 'object' alone; num_classes is {num_classes}")
        super().__init__(1, in_channels, **settings)
        channels = self.feat_channels
        if num_convs > 1:
            self.rpn_conv: Any = nn.Sequential(
                *(
                    ConvModule(channels if i else in_channels, channels, 3, padding=1)
                    for i in range(num_convs)
                )
            )
        else:
            self.rpn_conv = nn.Conv2d(in_channels, channels, 3, padding=1)
        count = self.anchors.counts[0]
        self.rpn_cls = nn.Conv2d(channels, count * self.cls_channels, 1)
        self.rpn_reg = nn.Conv2d(channels, count * 4, 1)

    def level(self, x: Tensor) -> tuple[Tensor, ...]:
        """A map [B, in_channels, h, w] -> logits [B, A, h, w], deltas [B, A * 4, h, w]."""
        x = F.relu(self.rpn_conv(x))
        return self.rpn_cls(x), self.rpn_reg(x)

    def predict(
        self, output: DenseOutput, sizes: Sizes, scale_factors: Factors
    ) -> list[Detections]:
        """The proposals of every image as Detections of class 0, in pixels of the original."""
        return self.propose(output, sizes, self.test_cfg, scale_factors)

    def propose(
        self, output: DenseOutput, sizes: Sizes, cfg: Config, factors: Factors | None = None
    ) -> list[Detections]:
        """The best `nms_pre` boxes of each level, NMS on each level, the best `max_per_img`."""
        cfg = of_version_3(cfg)
        logits = [level_rows(each, self.cls_channels).float() for each in output.logits]
        deltas = [level_rows(each, 4).float() for each in output.boxes]
        found = []
        for i, size in enumerate(sizes):
            scores, boxes, levels = [], [], []
            for number, (level, shifts, priors) in enumerate(
                zip(logits, deltas, self.image_anchors(output, i), strict=True)
            ):
                score = self.scores(level[i])[:, 0]
                if 0 < cfg.get("nms_pre", -1) < len(score):
                    score, best = score.sort(descending=True, stable=True)
                    score, best = score[: cfg["nms_pre"]], best[: cfg["nms_pre"]]
                    places, shift = priors[best], shifts[i][best]
                else:
                    places, shift = priors, shifts[i]
                scores.append(score)
                boxes.append(self.bbox_coder.decode(places, shift, size))
                levels.append(torch.full_like(score, number, dtype=torch.int64))
            candidates = Candidates(torch.cat(boxes), torch.cat(scores), torch.cat(levels))
            kept = suppress(candidates, cfg, factors[i] if factors else None)
            found.append(Detections(kept.boxes, kept.scores, torch.zeros_like(kept.labels)))
        return found

    def image_anchors(self, output: Any, image: int) -> list[Tensor]:
        """The anchors of every level of an image, each [h * w * A, 4]."""
        found: list[Tensor] = self.anchors(output.logits)
        return found

    def fixed_proposals(self, output: DenseOutput, size: tuple[int, int]) -> Tensor:
        """The proposals of one image [P, 4] for exports: P does not depend on the data.

        What NMS drops comes last instead.
        """
        scores = [
            self.scores(level_rows(each, self.cls_channels)[0])[:, 0] for each in output.logits
        ]
        rows = [level_rows(each, 4)[0] for each in output.boxes]
        anchors = self.image_anchors(output, 0)
        return best_fixed(scores, anchors, rows, self.bbox_coder, size, self.test_cfg)

    def loss(self, output: DenseOutput, targets: Targets, sizes: ImageSizes) -> dict[str, Tensor]:
        """loss_rpn_cls and loss_rpn_bbox; the objects' labels are not used."""
        objects = [{**each, "labels": torch.zeros_like(each["labels"])} for each in targets]
        losses = super().loss(output, objects, sizes)
        return {"loss_rpn_cls": losses["loss_cls"], "loss_rpn_bbox": losses["loss_bbox"]}


def best_fixed(
    scores: Sequence[Tensor],
    anchors: Sequence[Tensor],
    rows: Sequence[Tensor],
    coder: Any,
    size: tuple[int, int],
    cfg: Config,
) -> Tensor:
    """Scores [N_i], anchors and predictions [N_i, 4] of every level -> proposals [P, 4].

    P does not depend on the data: what NMS drops comes last.
    """
    cfg = of_version_3(cfg)
    kept, boxes, levels = [], [], []
    for number, (score, priors, row) in enumerate(zip(scores, anchors, rows, strict=True)):
        best = score.topk(min(cfg.get("nms_pre", len(score)), len(score))).indices
        kept.append(score[best])
        boxes.append(coder.decode(priors[best], row[best], size))
        levels.append(torch.full_like(best, number))
    joined, score = torch.cat(boxes), torch.cat(kept)
    keep = nms_mask(joined, score, cfg["nms"]["iou_threshold"], torch.cat(levels))
    order = torch.where(keep, score, score - 2)
    return joined[order.topk(min(cfg.get("max_per_img", 1000), len(order))).indices]


def of_version_3(cfg: Config) -> dict[str, Any]:
    """Settings of proposals in the spelling of MMDetection 3; older names are `nms_thr`, ..."""
    found = dict(cfg)
    if found.pop("nms_across_levels", False):
        found["nms"] = {**(found.get("nms") or {}), "class_agnostic": True}
    if (threshold := found.pop("nms_thr", None)) is not None:
        found["nms"] = {"type": "nms", "iou_threshold": threshold, **(found.get("nms") or {})}
    if (limit := found.pop("max_num", None)) is not None:
        found.setdefault("max_per_img", limit)
    return found
