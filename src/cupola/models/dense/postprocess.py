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
SPLIT = 10000  # from so many boxes on mmcv suppresses within classes, also if `class_agnostic`
NMS = {"nms": ("max_num", "score_threshold"), "soft_nms": ("sigma", "min_score", "method")}


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
    NMS runs as test_cfg["nms"] says, among boxes of a class, or not at all if that is None;
    `max_per_img` are kept.
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
    nms_cfg = test_cfg.get("nms", {})
    limit = test_cfg.get("max_per_img", -1)
    most = None if limit < 0 else limit
    if nms_cfg is None:
        scores, keep = scores.sort(descending=True, stable=True)
    else:
        keep, scores = _nms(boxes, scores, labels, nms_cfg, most)
    keep = keep[:most]
    return Detections(boxes[keep], scores[: len(keep)], labels[keep]), index[keep]


def _nms(
    boxes: Tensor, scores: Tensor, labels: Tensor, cfg: Config, most: int | None
) -> tuple[Tensor, Tensor]:
    """The kept indices, and their scores, best first; all after the first `most` may be missing.

    Source: batched_nms of mmcv/ops/nms.py.
    """
    settings = dict(cfg)
    kind = str(settings.pop("type", "nms")).rpartition(".")[2]
    if kind not in NMS:
        raise ValueError(f"nms type is 'nms' or 'soft_nms', got {kind!r}")
    agnostic = settings.pop("class_agnostic", False)
    agnostic = agnostic and len(scores) < settings.pop("split_thr", SPLIT)
    groups = None if agnostic else labels
    threshold = settings.pop("iou_threshold", settings.pop("iou_thr", None))
    settings.pop("split_thr", None)
    if set(settings) - set(NMS[kind]) or (threshold is None and kind == "nms"):
        names = ", ".join(NMS[kind])
        raise ValueError(f"{kind} takes iou_threshold, {names}, got {dict(cfg)}")
    if kind == "nms":
        limits = [most, settings.get("max_num", -1)]
        limit = min((each for each in limits if each is not None and each > 0), default=None)
        keep = nms(boxes, scores, threshold, groups, limit)
        if (least := settings.get("score_threshold", 0)) > 0:
            keep = keep[scores[keep] > least]
        return keep, scores[keep]
    if threshold is not None:
        settings["iou_threshold"] = threshold
    keep, lowered = soft_nms(boxes, scores, groups=groups, **settings)
    lowered, order = lowered.sort(descending=True, stable=True)
    return keep[order], lowered
