"""What FCOS predicts, and the boxes of the best cells of one image.

Letters: B images, C classes, N_i cells of a level, P candidates.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cupola.models.boxes import clip
from cupola.models.boxes.distances import boxes_around
from cupola.models.dense import Candidates, best_candidates


class FCOSOutput(NamedTuple):
    """One tensor per level: logits [B, C, h, w], distances [B, 4, h, w], centerness [B, 1, h, w].

    The distances are in pixels, but in training with `norm_on_bbox` in strides; the centerness is
    a logit.
    """

    logits: tuple[Tensor, ...]
    sides: tuple[Tensor, ...]
    centerness: tuple[Tensor, ...]


def image_candidates(
    points: Sequence[Tensor],
    size: tuple[int, int] | None,
    cfg: Mapping[str, Any],
    logits: Sequence[Tensor],
    sides: Sequence[Tensor],
    central: Sequence[Tensor],
) -> tuple[Candidates, Tensor]:
    """Points [N_i, 2], logits [N_i, C], sides [N_i, 4] and centerness [N_i, 1] of every level.

    The result is the `nms_pre` best of each level above `score_thr`, and the indices [P] of their
    cells among all. A score is the class's times the centerness; boxes are clipped to the image's
    (height, width) `size`, if it is given.
    """
    boxes, scores, labels, places = [], [], [], []
    before = 0
    threshold, limit = cfg.get("score_thr", 0), cfg.get("nms_pre", -1)
    for level, point in enumerate(points):
        score, where, classes = best_candidates(logits[level].sigmoid(), threshold, limit)
        boxes.append(boxes_around(point[where], sides[level][where]))
        scores.append(score * central[level][where, 0].sigmoid())
        labels.append(classes)
        places.append(where + before)
        before += len(point)
    joined = torch.cat(boxes)
    if size is not None:
        joined = clip(joined, size)
    return Candidates(joined, torch.cat(scores), torch.cat(labels)), torch.cat(places)
