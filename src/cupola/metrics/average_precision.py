"""Average precision at one IoU, as Pascal VOC and Open Images have it.

Source: mmdet/evaluation/functional/mean_ap.py. Letters: D detections, G objects.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True)
class ClassInImage:
    """One class in one image: boxes xyxy [D, 4] with scores [D], and those of the truth [G, 4].

    ignored [G]: objects that may be found or not. groups [G]: boxes around several objects.
    """

    boxes: Array
    scores: Array
    truth: Array
    ignored: Array
    groups: Array


def overlaps(first: Array, second: Array, extra: float, of_first: bool = False) -> Array:
    """IoU of boxes [D, 4] and [G, 4] -> [D, G], or the covered part of the first.

    extra: 1 where the last pixel is part of a box, as in the tools of VOC.
    """
    low = np.maximum(first[:, None, :2], second[:, :2])
    high = np.minimum(first[:, None, 2:], second[:, 2:])
    both = (high - low + extra).clip(0).prod(-1)
    areas, others = ((b[:, 2:] - b[:, :2] + extra).prod(1) for b in (first, second))
    whole = areas[:, None] if of_first else areas[:, None] + others - both
    found: Array = both / np.maximum(whole, np.finfo(np.float32).eps)
    return found


def average_precision(
    images: Sequence[ClassInImage],
    threshold: float = 0.5,
    eleven_points: bool = False,
    extra: float = 0.0,
    group_threshold: float = 0.5,
) -> tuple[float, int]:
    """The average precision of one class in all images, and the number of its objects.

    A detection belongs to the object of its largest IoU: the first one of an object is right, the
    others are wrong; with an ignored object it does not count. Without an object but mostly inside
    a group it counts for the group, once with the largest score. The mean is over the recalls 0,
    0.1, ..., 1 with `eleven_points`, else the area below the curve.
    """
    parts = [_judge(each, threshold, extra, group_threshold) for each in images]
    scores = np.concatenate([part[0] for part in parts]) if parts else np.zeros(0)
    right = np.concatenate([part[1] for part in parts]) if parts else np.zeros(0)
    wrong = np.concatenate([part[2] for part in parts]) if parts else np.zeros(0)
    count = sum(int((~each.ignored).sum()) for each in images)
    order = np.argsort(-scores, kind="stable")
    right, wrong = right[order].cumsum(), wrong[order].cumsum()
    recall = right / max(count, np.finfo(np.float32).eps)
    precision = right / np.maximum(right + wrong, np.finfo(np.float32).eps)
    return (_of_eleven if eleven_points else _area)(recall, precision), count


def _judge(
    image: ClassInImage, threshold: float, extra: float, group_threshold: float
) -> tuple[Array, Array, Array]:
    """Scores of detections, groups last, and whether each is right or wrong (0 or 1)."""
    order = np.argsort(-image.scores, kind="stable")
    boxes, scores = image.boxes[order], image.scores[order]
    single = np.flatnonzero(~image.groups)
    single = single[np.argsort(image.ignored[single], kind="stable")]  # those that count first
    truth, ignored = image.truth[single], image.ignored[single]
    right, wrong = np.zeros(len(boxes)), np.zeros(len(boxes))
    taken = np.zeros(len(truth), bool)
    ious = overlaps(boxes, truth, extra)
    for row, found in enumerate(ious):
        best = int(found.argmax()) if len(found) else -1
        if best < 0 or found[best] < threshold:
            wrong[row] = 1
        elif not ignored[best]:
            (wrong if taken[best] else right)[row] = 1
            taken[best] = True
    return _with_groups(image, boxes, scores, right, wrong, group_threshold)


def _with_groups(
    image: ClassInImage, boxes: Array, scores: Array, right: Array, wrong: Array, threshold: float
) -> tuple[Array, Array, Array]:
    groups = image.truth[image.groups]
    if not len(groups):
        return scores, right, wrong
    ignored = image.ignored[image.groups]
    parts = overlaps(boxes, groups, 0.0, of_first=True)
    best = parts.argmax(1)
    joined = (right == 0) & (parts.max(1) >= threshold) & ~ignored[best]
    found = np.zeros(len(groups), bool)
    found[best[joined]] = True
    highest = np.zeros(len(groups))
    np.maximum.at(highest, best[joined], scores[joined])
    return (
        np.concatenate((scores[~joined], highest)),
        np.concatenate((right[~joined], found)),
        np.concatenate((wrong[~joined], ~found)),
    )


def _of_eleven(recall: Array, precision: Array) -> float:
    points = np.arange(0, 1.001, 0.1)
    return float(sum(precision[recall >= point].max(initial=0) for point in points) / 11)


def _area(recall: Array, precision: Array) -> float:
    recall = np.concatenate(([0.0], recall, [1.0]))
    precision = np.concatenate(([0.0], precision, [0.0]))
    precision = np.maximum.accumulate(precision[::-1])[::-1]  # at this recall or more
    return float(((recall[1:] - recall[:-1]) * precision[1:]).sum())
