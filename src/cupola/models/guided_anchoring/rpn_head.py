"""GARPNHead: guided anchors for proposals."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cupola import nn
from cupola.models.dense import Candidates, ImageSizes, level_rows, suppress
from cupola.models.dense.targets import Targets
from cupola.models.guided_anchoring.adaption import FeatureAdaption
from cupola.models.guided_anchoring.head import GuidedAnchorHead
from cupola.models.guided_anchoring.retina_head import best_cells, likely
from cupola.models.rpn.head import best_fixed, of_version_3
from cupola.registry import MODELS
from cupola.structures import Detections

Config = Mapping[str, Any]
INITIAL: Config = {"type": "Normal", "layer": "Conv2d", "std": 0.01, "override": likely("conv_loc")}
Sizes = Sequence[tuple[int, int]]
Factors = Sequence[Sequence[float] | None]


@MODELS.register_module()
class GARPNHead(GuidedAnchorHead):
    """A 3x3 convolution, then locations, shapes, objectness and deltas.

    Source: mmdet/models/dense_heads/ga_rpn_head.py.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int = 1,
        deform_groups: int = 4,
        init_cfg: Any = INITIAL,
        **options: Any,
    ) -> None:
        if num_classes != 1:
            raise ValueError(
                f"GARPNHead has the class 'object' alone; num_classes is {num_classes}"
            )
        super().__init__(1, in_channels, init_cfg=init_cfg, **options)
        channels = self.feat_channels
        self.rpn_conv = nn.Conv2d(in_channels, channels, 3, padding=1)
        self.conv_loc, self.conv_shape = nn.Conv2d(in_channels, 1, 1), nn.Conv2d(in_channels, 2, 1)
        self.feature_adaption = FeatureAdaption(in_channels, channels, 3, deform_groups)
        self.conv_cls = nn.Conv2d(channels, self.cls_channels, 1)
        self.conv_reg = nn.Conv2d(channels, 4, 1)

    def level(self, x: Tensor) -> tuple[Tensor, ...]:
        """A map [B, in_channels, h, w] -> logits, deltas, shapes and locations."""
        x = F.relu(self.rpn_conv(x))
        locations, shapes = self.conv_loc(x), self.conv_shape(x)
        x = self.feature_adaption(x, shapes)
        return self.conv_cls(x), self.conv_reg(x), shapes, locations

    def predict(self, output: Any, sizes: Sizes, scale_factors: Factors) -> list[Detections]:
        """The proposals of every image as Detections of class 0, in pixels of the original."""
        return self.propose(output, sizes, self.test_cfg, scale_factors)

    def propose(
        self, output: Any, sizes: Sizes, cfg: Config, factors: Factors | None = None
    ) -> list[Detections]:
        """NMS of the best `nms_pre` of each level, `nms_post` of it, the best `max_per_img`.

        With `nms_across_levels` NMS runs once more over all levels.
        """
        across, cfg = cfg.get("nms_across_levels", False), of_version_3(cfg)
        nms = {**cfg["nms"], "class_agnostic": True}
        level_cfg = {
            "nms": nms,
            "min_bbox_size": cfg.get("min_bbox_size", -1),
            "max_per_img": cfg.get("nms_post", -1),
        }
        located, guided, found = self.located(output), self.guided(output), []
        for i, size in enumerate(sizes):
            kept = []
            for use, anchors, logits, rows in zip(
                located, guided, output.logits, output.boxes, strict=True
            ):
                score = self.scores(level_rows(logits[i : i + 1], self.cls_channels)[0].float())
                row, score = level_rows(rows[i : i + 1], 4)[0].float()[use[i]], score[use[i]]
                best = best_cells(score, cfg.get("nms_pre", -1))
                boxes = self.bbox_coder.decode(anchors[i][use[i]][best], row[best], size)
                labels = torch.zeros(len(best), dtype=torch.int64, device=boxes.device)
                kept.append(suppress(Candidates(boxes, score[best, 0], labels), level_cfg))
            joined = _joined(kept)
            if across:
                joined = suppress(
                    Candidates(joined.boxes, joined.scores, joined.labels), {"nms": nms}
                )
            found.append(_best(joined, cfg.get("max_per_img", -1), factors[i] if factors else None))
        return found

    def fixed_proposals(self, output: Any, size: tuple[int, int]) -> Tensor:
        """The proposals of one image [P, 4] for exports: P does not depend on the data.

        Cells without an anchor and what NMS drops come last instead.
        """
        scores = [
            self.scores(level_rows(logits, self.cls_channels)[0])[:, 0] - 1.0 * ~use[0]
            for logits, use in zip(output.logits, self.located(output), strict=True)
        ]
        rows = [level_rows(each, 4)[0] for each in output.boxes]
        anchors = [each[0] for each in self.guided(output)]
        return best_fixed(scores, anchors, rows, self.bbox_coder, size, self.test_cfg)

    def loss(self, output: Any, targets: Targets, sizes: ImageSizes) -> dict[str, Tensor]:
        """loss_rpn_cls, loss_rpn_bbox, loss_anchor_shape and loss_anchor_loc."""
        objects = [{**each, "labels": torch.zeros_like(each["labels"])} for each in targets]
        losses = super().loss(output, objects, sizes)
        return {
            "loss_rpn_cls": losses["loss_cls"],
            "loss_rpn_bbox": losses["loss_bbox"],
            "loss_anchor_shape": losses["loss_shape"],
            "loss_anchor_loc": losses["loss_loc"],
        }


def _joined(found: Sequence[Detections]) -> Detections:
    return Detections(
        torch.cat([each.boxes for each in found]),
        torch.cat([each.scores for each in found]),
        torch.cat([each.labels for each in found]),
    )


def _best(found: Detections, limit: int, factor: Sequence[float] | None) -> Detections:
    """The `limit` best, all where it is negative, in pixels of the original image."""
    order = found.scores.argsort(descending=True, stable=True)
    order = order if limit < 0 else order[:limit]
    boxes = found.boxes[order]
    if factor is not None:
        boxes = boxes / boxes.new_tensor([*factor[:2], *factor[:2]])
    return Detections(boxes, found.scores[order], found.labels[order])
