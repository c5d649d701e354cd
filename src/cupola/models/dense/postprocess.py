"""From scored boxes of all cells to detections: the best of each level, then NMS per class.

Source: mmdet/models/dense_heads/base_dense_head.py.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cupola.ops.nms import nms, soft_nms
from cupola.structures import Detections

Config = Mapping[str, Any]
CANDIDATES = -1  # no limit of the candidates of a level


class Candidates(NamedTuple):
    """boxes [N, 4], xyxy; scores [N]; labels [N]."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor


def best_candidates(
    scores: Tensor, threshold: float, limit: int = CANDIDATES
) -> tuple[Tensor, Tensor, Tensor]:
    """scores [N, C] -> the best (cell, class) pairs above `threshold`: scores, cells, classes.

    At most `limit` of them, all where it is negative, best first.
    """
    above = scores > threshold
    cells, classes = above.nonzero(as_tuple=True)
    values, order = scores[above].sort(descending=True, stable=True)
    order = order if limit < 0 else order[:limit]
    return values[: len(order)], cells[order], classes[order]


def level_rows(level: Tensor, width: int) -> Tensor:
    """A level's predictions [B, A * width, h, w] -> [B, h * w * A, width], cell by cell."""
    return level.permute(0, 2, 3, 1).reshape(level.shape[0], -1, width)


def best_of_levels(
    scores: Sequence[Tensor], qualities: Sequence[Tensor] | None, test_cfg: Config
) -> tuple[list[Tensor], Tensor, Tensor]:
    """One image's scores [N_i, C] and qualities [N_i] (0..1) of every level -> the candidates.

    Which anchors of each level, then scores and labels of all: `nms_pre` of a level above
    `score_thr`. Qualities multiply the scores of those that are chosen.
    """
    places, kept, labels = [], [], []
    threshold, limit = test_cfg.get("score_thr", 0), test_cfg.get("nms_pre", CANDIDATES)
    for level, each in enumerate(scores):
        best, where, classes = best_candidates(each, threshold, limit)
        kept.append(best if qualities is None else best * qualities[level][where])
        places.append(where)
        labels.append(classes)
    return places, torch.cat(kept), torch.cat(labels)


def suppress(
    found: Candidates, test_cfg: Config, scale_factor: Sequence[float] | None = None
) -> Detections:
    """Candidates of one image -> Detections, best first, in pixels of the original image.

    Boxes are divided by `scale_factor` (w, h); those not larger than `min_bbox_size` are dropped;
    NMS runs as test_cfg["nms"] says, among boxes of a class; `max_per_img` are kept.
    """
    return suppressed(found, test_cfg, scale_factor)[0]


def suppressed(
    found: Candidates, test_cfg: Config, scale_factor: Sequence[float] | None = None
) -> tuple[Detections, Tensor]:
    """What `suppress` gives, and which of the candidates they are."""
    boxes, scores, labels = found
    index = torch.arange(len(scores), device=scores.device)
    if scale_factor is not None:
        boxes = boxes / boxes.new_tensor([*scale_factor[:2], *scale_factor[:2]])
    if (least := test_cfg.get("min_bbox_size", -1)) >= 0:
        large = ((boxes[:, 2:] - boxes[:, :2]) > least).all(-1)
        boxes, scores, labels, index = boxes[large], scores[large], labels[large], index[large]
    keep, scores = _nms(boxes, scores, labels, test_cfg.get("nms") or {})
    limit = test_cfg.get("max_per_img", -1)
    keep = keep if limit < 0 else keep[:limit]
    return Detections(boxes[keep], scores[: len(keep)], labels[keep]), index[keep]


def _nms(boxes: Tensor, scores: Tensor, labels: Tensor, cfg: Config) -> tuple[Tensor, Tensor]:
    """The kept indices, and their scores, best first."""
    settings = {k: v for k, v in cfg.items() if k not in ("type", "class_agnostic", "split_thr")}
    kind = str(cfg.get("type", "nms")).rpartition(".")[2]
    groups = None if cfg.get("class_agnostic", False) else labels
    if kind == "nms":
        known = {"iou_threshold", "max_num"}
        threshold = settings.get("iou_threshold", settings.get("iou_thr"))
        if threshold is None or set(settings) - known - {"iou_thr"}:
            raise ValueError(f"nms takes iou_threshold and max_num, got {dict(cfg)}")
        keep = nms(boxes, scores, threshold, groups, settings.get("max_num"))
        return keep, scores[keep]
    if kind == "soft_nms":
        keep, lowered = soft_nms(boxes, scores, groups=groups, **settings)
        lowered, order = lowered.sort(descending=True, stable=True)
        return keep[order], lowered
    raise ValueError(f"nms type is 'nms' or 'soft_nms', got {kind!r}")
