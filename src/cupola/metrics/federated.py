"""Average precision of federated datasets such as LVIS, where images know only some categories.

An image is annotated for the categories of its objects and for those that it is known not to have;
detections of others do not count. Where an image's annotations of a category are not exhaustive,
unmatched detections do not count either. Source: lvis-api's eval.py (arXiv 1908.03195).
Letters: T IoU thresholds, R recall thresholds, D detections, G objects.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)
AREAS = {"": (0.0, 1e10), "s": (0.0, 32.0**2), "m": (32.0**2, 96.0**2), "l": (96.0**2, 1e10)}
MOST_DETECTIONS = 300  # of an image


@dataclass(frozen=True)
class FederatedImage:
    """One image's truth and detections, as entries of COCO files; categories are labels.

    truth: with "category_id", "area" and `kind`; found: with "score", too. negative: labels that
    the image does not have; not_exhaustive: labels of which objects may be missing.
    """

    truth: Sequence[Mapping[str, Any]]
    found: Sequence[Mapping[str, Any]]
    negative: frozenset[int]
    not_exhaustive: frozenset[int]


@dataclass(frozen=True)
class _Matches:
    """One image and category: scores [D], matched and ignored [T, D], and objects that count."""

    scores: Array
    matched: Array
    ignored: Array
    count: int


def precisions(images: Sequence[FederatedImage], classes: int, kind: str) -> dict[str, Array]:
    """Precision by range of area, each [T, R, classes]; -1 for a class without objects.

    kind: "bbox" (boxes left, top, width, height) or "segmentation" (run lengths).
    """
    found = {area: -np.ones((len(THRESHOLDS), len(RECALLS), classes)) for area in AREAS}
    tables = [_by_label(image) for image in images]
    for label in sorted({label for table in tables for label in table if label < classes}):
        pairs = [
            (table[label], _ious(*table[label], kind), label in image.not_exhaustive)
            for table, image in zip(tables, images, strict=True)
            if label in table
        ]
        for area, limits in AREAS.items():
            matches = [_match(*lists, ious, limits, loose) for lists, ious, loose in pairs]
            if any(each.count for each in matches):
                found[area][:, :, label] = _precision(matches)
    return found


def _by_label(image: FederatedImage) -> dict[int, tuple[list[Any], list[Any]]]:
    """Objects and detections, best first, of every label that counts in an image."""
    table: dict[int, tuple[list[Any], list[Any]]] = {}
    for entry in image.truth:
        table.setdefault(entry["category_id"], ([], []))[0].append(entry)
    known = set(table) | image.negative
    best = sorted(image.found, key=lambda each: -each["score"])[:MOST_DETECTIONS]
    for entry in best:
        if entry["category_id"] in known:
            table.setdefault(entry["category_id"], ([], []))[1].append(entry)
    return table


def _ious(truth: Sequence[Any], found: Sequence[Any], kind: str) -> Array:
    """[D, G]."""
    from pycocotools import mask as coco_mask

    if not truth or not found:
        return np.zeros((len(found), len(truth)))
    lists = ([each[kind] for each in found], [each[kind] for each in truth])
    return np.asarray(coco_mask.iou(*lists, [0] * len(truth)))


def _match(
    truth: Sequence[Any],
    found: Sequence[Any],
    ious: Array,
    limits: tuple[float, float],
    not_exhaustive: bool,
) -> _Matches:
    """Every detection takes the best object that is free, best detection first."""
    ignored = np.array([not limits[0] <= each["area"] <= limits[1] for each in truth], bool)
    order = np.argsort(ignored, kind="stable")  # objects that do not count come last
    ious, ignored = ious[:, order], ignored[order]
    matched = np.zeros((len(THRESHOLDS), len(found)), bool)
    left_out = np.zeros((len(THRESHOLDS), len(found)), bool)
    for t, threshold in enumerate(THRESHOLDS if truth else ()):
        taken = np.zeros(len(truth), bool)
        for d in range(len(found)):
            chosen = _best(ious[d], taken, ignored, min(threshold, 1 - 1e-10))
            if chosen is not None:
                taken[chosen] = matched[t, d] = True
                left_out[t, d] = ignored[chosen]
    outside = np.array(
        [not_exhaustive or not limits[0] <= each["area"] <= limits[1] for each in found], bool
    )
    scores = np.array([each["score"] for each in found], float)
    return _Matches(scores, matched, left_out | (~matched & outside), int((~ignored).sum()))


def _best(ious: Array, taken: Array, ignored: Array, threshold: float) -> int | None:
    """The free object of the largest IoU, the last of equal ones; those that count come first."""
    for group in (~ignored, ignored):
        free = np.flatnonzero(group & ~taken & (ious >= threshold))
        if len(free):
            best = ious[free].max()
            return int(free[ious[free] == best][-1])
    return None


def _precision(matches: Sequence[_Matches]) -> Array:
    """Precision at the recall thresholds, [T, R]."""
    order = np.argsort(-np.concatenate([each.scores for each in matches]), kind="stable")
    matched = np.concatenate([each.matched for each in matches], 1)[:, order]
    counts = ~np.concatenate([each.ignored for each in matches], 1)[:, order]
    right = (matched & counts).cumsum(1).astype(float)
    wrong = (~matched & counts).cumsum(1).astype(float)
    recall = right / sum(each.count for each in matches)
    precision = right / (right + wrong + np.spacing(1))
    precision = np.maximum.accumulate(precision[:, ::-1], 1)[:, ::-1]  # at this recall or more
    found = np.zeros((len(THRESHOLDS), len(RECALLS)))
    for t in range(len(THRESHOLDS)):
        places = np.searchsorted(recall[t], RECALLS, side="left")
        reached = places < recall.shape[1]
        found[t, reached] = precision[t, places[reached]]
    return found
