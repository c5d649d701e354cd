"""Distinct queries: those that non-maximum suppression of their boxes keeps.

Letters: B images, S candidates, Q queries, M heads, N queries of all kinds.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cupola.ops.nms import nms, nms_mask
from cupola.structures.boxes import cxcywh_to_xyxy

UNIT = 1024.0  # IoU of boxes this many times as large is the same, and free of its epsilon


@dataclass(frozen=True)
class DistinctSelection:
    """`dqs_cfg`: the threshold of the suppression."""

    iou_threshold: float

    @classmethod
    def from_config(cls, cfg: Mapping[str, Any]) -> "DistinctSelection":
        if cfg.get("type", "nms") != "nms" or set(cfg) - {"type", "iou_threshold"}:
            raise ValueError(
                f"dqs_cfg should be dict(type='nms', iou_threshold=...), got {dict(cfg)!r}"
            )
        return cls(float(cfg["iou_threshold"]))

    def keep(self, boxes: Tensor, scores: Tensor, most: int | None = None) -> Tensor:
        """Indices of distinct boxes, best first: cxcywh in 0..1 [S, 4], scores [S] -> [K].

        Boxes are moved as the original moves those of class 1, and equal scores are ordered as
        torch.sort orders them, both of which decides close cases alike.
        """
        corners = cxcywh_to_xyxy(boxes)
        if len(corners):
            corners = corners + (corners.max() + 1)
        order = scores.argsort(descending=True)
        return nms(corners * UNIT, scores, self.iou_threshold, max_num=most, order=order)

    def best(self, boxes: Tensor, scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """The `count` best distinct boxes in a fixed shape: indices, and whether there are so many.

        For exports, where the number of distinct boxes cannot be a shape. Compares all pairs.
        """
        kept = nms_mask(cxcywh_to_xyxy(boxes) * UNIT, scores, self.iou_threshold)
        ranked = torch.where(kept, scores, -1.0).topk(count)
        return ranked.indices, ranked.values >= 0

    def visible(self, boxes: Tensor, scores: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
        """Which queries stay distinct: boxes [B, Q, 4], scores [B, Q], before [B, Q] bool.

        -> kept [B, Q], and the candidates of the next layer [B, Q]: the kept ones, or all of them
        where the first query is kept, as in the original.
        """
        if torch.compiler.is_exporting():
            corners = cxcywh_to_xyxy(boxes) * UNIT
            masks = [
                nms_mask(corners[i], scores[i], self.iou_threshold, candidates.long())
                for i, candidates in enumerate(before.unbind())
            ]
            kept = torch.stack(masks) & before
            return kept, kept | kept[:, :1]
        kept = torch.zeros_like(before)
        for image, candidates in enumerate(before):
            index = candidates.nonzero()[:, 0]
            kept[image, index[self.keep(boxes[image, index], scores[image, index])]] = True
        return kept, kept | kept[:, :1]


def distinct_mask(mask: Tensor, kept: Tensor, start: int, heads: int) -> Tensor:
    """Attention masks in which only kept queries see, and are seen by, all distinct queries.

    mask [N, N], True = must not see; kept [B, Q], of the queries from `start` on. -> [B * M, N, N].
    """
    B, Q = kept.shape
    masks = mask.repeat(B, 1, 1)
    masks[:, start : start + Q, start : start + Q] = ~(kept[:, :, None] | kept[:, None, :])
    return masks.repeat_interleave(heads, 0)
