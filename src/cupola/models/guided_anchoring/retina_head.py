"""GARetinaHead: guided anchors for RetinaNet."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from cupola import nn
from cupola.models.dense import Candidates, level_rows, suppress
from cupola.models.dense.stacks import apply, stack
from cupola.models.guided_anchoring.adaption import FeatureAdaption
from cupola.models.guided_anchoring.head import GuidedAnchorHead
from cupola.registry import MODELS
from cupola.structures import Detections

Config = Mapping[str, Any]


def likely(name: str) -> dict[str, Any]:
    """A layer that begins with a score of 0.01."""
    return {"type": "Normal", "name": name, "std": 0.01, "bias_prob": 0.01}


INITIAL: Config = {
    "type": "Normal",
    "layer": "Conv2d",
    "std": 0.01,
    "override": [likely("conv_loc"), likely("retina_cls")],
}


@MODELS.register_module()
class GARetinaHead(GuidedAnchorHead):
    """Two stacks of convolutions, whose features are adapted to the predicted shapes.

    Source: mmdet/models/dense_heads/ga_retina_head.py.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        stacked_convs: int = 4,
        conv_cfg: Config | None = None,
        norm_cfg: Config | None = None,
        deform_groups: int = 4,
        init_cfg: Any = None,
        **options: Any,
    ) -> None:
        super().__init__(num_classes, in_channels, init_cfg=init_cfg or INITIAL, **options)
        channels = self.feat_channels
        settings = (stacked_convs, in_channels, channels, conv_cfg, norm_cfg)
        self.cls_convs, self.reg_convs = stack(*settings), stack(*settings)
        self.conv_loc, self.conv_shape = nn.Conv2d(channels, 1, 1), nn.Conv2d(channels, 2, 1)
        adaption = (channels, channels, 3, deform_groups)
        self.feature_adaption_cls = FeatureAdaption(*adaption)
        self.feature_adaption_reg = FeatureAdaption(*adaption)
        self.retina_cls = nn.Conv2d(channels, self.cls_channels, 3, padding=1)
        self.retina_reg = nn.Conv2d(channels, 4, 3, padding=1)

    def level(self, x: Tensor) -> tuple[Tensor, ...]:
        """A map [B, in_channels, h, w] -> logits, deltas, shapes and locations."""
        for_class, for_box = apply(self.cls_convs, x), apply(self.reg_convs, x)
        locations, shapes = self.conv_loc(for_class), self.conv_shape(for_box)
        logits = self.retina_cls(self.feature_adaption_cls(for_class, shapes))
        boxes = self.retina_reg(self.feature_adaption_reg(for_box, shapes))
        return logits, boxes, shapes, locations

    def predict(
        self,
        output: Any,
        sizes: Sequence[tuple[int, int]],
        scale_factors: Sequence[Sequence[float] | None],
    ) -> list[Detections]:
        """Detections of every image: the `nms_pre` best cells of each level, then NMS."""
        found = []
        located, guided = self.located(output), self.guided(output)
        cfg = {k: v for k, v in self.test_cfg.items() if k != "min_bbox_size"}  # as the original
        for i, (size, factor) in enumerate(zip(sizes, scale_factors, strict=True)):
            boxes, scores = [], []
            for use, anchors, logits, rows in zip(
                located, guided, output.logits, output.boxes, strict=True
            ):
                score = self.scores(level_rows(logits[i : i + 1], self.cls_channels)[0].float())
                row, score = level_rows(rows[i : i + 1], 4)[0].float()[use[i]], score[use[i]]
                best = best_cells(score, cfg.get("nms_pre", -1))
                boxes.append(self.bbox_coder.decode(anchors[i][use[i]][best], row[best], size))
                scores.append(score[best])
            joined = torch.cat(scores)
            cells, labels = (joined > cfg["score_thr"]).nonzero(as_tuple=True)
            candidates = Candidates(torch.cat(boxes)[cells], joined[cells, labels], labels)
            found.append(suppress(candidates, cfg, factor))
        return found


def best_cells(scores: Tensor, limit: int) -> Tensor:
    """Scores [N, C] -> indices of the `limit` cells of the largest scores, of all if it is less."""
    if not 0 < limit < len(scores):
        return torch.arange(len(scores), device=scores.device)
    return scores.amax(1).topk(limit).indices
