"""The average recall of region proposals, whatever the class of the objects.

Source: mmdet/evaluation/functional/recall.py (`proposal_fast` in its configs).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from cupola.metrics.average_precision import overlaps

THRESHOLDS = np.linspace(0.5, 0.95, 10)


def average_recall(images: Sequence[tuple[Any, Any]], counts: Sequence[int]) -> list[float]:
    """The recall for so many proposals per image, the mean over IoU 0.50:0.95.

    images: boxes xyxy of the objects [G, 4] and of the proposals [P, 4], best first. An object and
    a proposal are matched by their IoU, the largest first. Without objects 0.
    """
    total = sum(len(objects) for objects, _ in images)
    found = []
    for count in counts:
        parts = [_matched(overlaps(objects, boxes[:count], 0.0)) for objects, boxes in images]
        ious = np.concatenate(parts) if parts else np.zeros(0)
        found.append(float((ious[:, None] >= THRESHOLDS).sum(0).mean() / max(total, 1)))
    return found


def _matched(ious: Any) -> Any:
    """The IoU of every object with the proposal that it gets, [G, P] -> [G] in any order."""
    rest, best = ious.copy(), np.zeros(len(ious))
    for number in range(min(ious.shape)):
        row, column = np.unravel_index(rest.argmax(), rest.shape)
        best[number] = rest[row, column]
        rest[row], rest[:, column] = -1, -1
    return best
