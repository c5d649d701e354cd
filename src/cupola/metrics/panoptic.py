"""Panoptic quality (arXiv 1801.00868), with the rules of cocodataset/panopticapi.

A predicted and a true segment of one class match if their IoU, without the unlabeled pixels, is
over 0.5. PQ = sum of the IoUs / (TP + FP / 2 + FN / 2) for each class, averaged over the classes
that occur; SQ and RQ are its two factors.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cupola.errors import DataError
from cupola.registry import METRICS
from cupola.structures import PanopticSegmentation, PanopticTruth


@dataclass
class ClassCount:
    """What was found of one class."""

    is_thing: bool
    iou: float = 0.0
    true_positives: int = 0
    false_positives: int = 0
    false_negatives: int = 0


@METRICS.register_module(["CocoPanopticMetric", "PanopticQuality"])
class PanopticQuality:
    """PQ, SQ and RQ over all classes, over things (_th) and over stuff (_st), in 0..1.

    Batches hold the truth of every image under "panoptic", predictions their segmentation.
    """

    published_names: Mapping[str, str] = {
        f"{prefix}{name}": name
        for prefix in ("coco_panoptic/", "")
        for name in ("PQ", "SQ", "RQ", "PQ_th", "SQ_th", "RQ_th", "PQ_st", "SQ_st", "RQ_st")
    }

    def __init__(self, **ignored: Any) -> None:
        self.reset()

    def reset(self) -> None:
        """Discards all images."""
        self._images = 0
        self._classes: dict[int, ClassCount] = {}

    def update(self, batch: Mapping[str, Any], predictions: Sequence[Any]) -> None:
        """Adds a batch. Raises DataError for predictions without a panoptic segmentation."""
        for truth, found in zip(batch["panoptic"], predictions, strict=True):
            if found.panoptic is None:
                raise DataError("panoptic quality needs a model with panoptic_on in its test_cfg")
            self.add(truth, found.panoptic)

    def add(self, truth: PanopticTruth, found: PanopticSegmentation) -> None:
        """Adds one image."""
        self._images += 1
        ids = found.ids.cpu().numpy().astype(np.int64)
        if ids.shape != truth.ids.shape:
            raise DataError(f"segmentation of {ids.shape} pixels, ground truth {truth.ids.shape}")
        match_segments(Overlaps(truth, ids, found), self._classes)

    def compute(self) -> dict[str, float]:
        """The metrics by name. Raises DataError if there were no images."""
        if not self._images:
            raise DataError("panoptic quality needs at least one image; the dataset is empty")
        scores: dict[str, float] = {}
        for suffix, kinds in (("", (True, False)), ("_th", (True,)), ("_st", (False,))):
            counts = [each for each in self._classes.values() if each.is_thing in kinds]
            for name, value in zip(("PQ", "SQ", "RQ"), quality(counts), strict=True):
                scores[name + suffix] = value
        return scores


class Overlaps:
    """The segments of one image and the pixels that pairs of them share.

    pixels: by (index of the true segment, index of the predicted one), -1 for no segment.
    """

    def __init__(
        self, truth: PanopticTruth, ids: NDArray[np.int64], found: PanopticSegmentation
    ) -> None:
        self.true = [each for each in truth.segments if each.label >= 0]
        self.found = list(found.segments)
        pairs = np.stack(
            (
                _indices(truth.ids, [each.id for each in self.true]).ravel(),
                _indices(ids, [each.id for each in self.found]).ravel(),
            )
        )
        unique, counts = np.unique(pairs, axis=1, return_counts=True)
        self.pixels: Counter[tuple[int, int]] = Counter()
        self.true_area: Counter[int] = Counter()
        self.found_area: Counter[int] = Counter()
        for (t, f), count in zip(unique.T.tolist(), counts.tolist(), strict=True):
            self.pixels[t, f] = count
            self.true_area[t] += count
            self.found_area[f] += count


def _indices(ids: NDArray[np.int64], known: Sequence[int]) -> NDArray[np.int64]:
    """The place of every id in `known`, -1 for others."""
    indices = np.full(ids.shape, -1, dtype=np.int64)
    for index, number in enumerate(known):
        indices[ids == number] = index
    return indices


def match_segments(image: Overlaps, classes: dict[int, ClassCount]) -> None:
    """Adds the matches, misses and false segments of one image to the counts of the classes."""
    matched_true, matched_found = set(), set()
    for (t, f), pixels in image.pixels.items():
        if t < 0 or f < 0:
            continue
        truth, found = image.true[t], image.found[f]
        if truth.crowd or truth.label != found.label:
            continue
        union = image.found_area[f] + image.true_area[t] - pixels - image.pixels[-1, f]
        if pixels / union > 0.5:
            count = classes.setdefault(truth.label, ClassCount(truth.is_thing))
            count.true_positives += 1
            count.iou += pixels / union
            matched_true.add(t)
            matched_found.add(f)
    crowds: dict[int, int] = {}
    for t, truth in enumerate(image.true):
        if truth.crowd:
            crowds[truth.label] = t
        elif t not in matched_true:
            classes.setdefault(truth.label, ClassCount(truth.is_thing)).false_negatives += 1
    for f, found in enumerate(image.found):
        ignored = image.pixels[-1, f]
        if found.label in crowds:
            ignored += image.pixels[crowds[found.label], f]
        if f not in matched_found and ignored <= 0.5 * image.found_area[f]:
            classes.setdefault(found.label, ClassCount(found.is_thing)).false_positives += 1


def quality(counts: Sequence[ClassCount]) -> tuple[float, float, float]:
    """PQ, SQ and RQ, averaged over the classes that occur; 0 where none does."""
    rows = []
    for each in counts:
        weight = each.true_positives + 0.5 * (each.false_positives + each.false_negatives)
        segmentation = each.iou / each.true_positives if each.true_positives else 0.0
        rows.append((each.iou / weight, segmentation, each.true_positives / weight))
    if not rows:
        return 0.0, 0.0, 0.0
    pq, sq, rq = (float(value) for value in np.mean(rows, axis=0))
    return pq, sq, rq
