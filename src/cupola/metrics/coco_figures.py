"""The figures of COCOeval: average precision and recall by IoU, size of object and class.

Letters: T thresholds, R recalls, K classes, A sizes (all, small, medium, large), M numbers of
detections.
"""

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

THRESHOLDS = tuple(np.linspace(0.5, 0.95, 10).tolist())
SIZES = ("", "_small", "_medium", "_large")

Table = list[dict[str, Any]]


@dataclass(frozen=True)
class Figures:
    """precision [T, R, K, A, M] and recall [T, K, A, M]; -1 where there is no object.

    counts: the numbers of detections [M]; labels: those of the classes [K].
    """

    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    thresholds: NDArray[np.float64]
    counts: tuple[int, ...]
    labels: tuple[int, ...]

    def figure(self, name: str) -> float:
        """AP, AP50, AP75, AP_small, ... or AR@100, AR_small@100, ..., 0..1; -1 without objects.

        As in MMDetection AP alone is of 100 detections per image (or of the most, if that number
        was not counted), the others of the most.
        """
        kind, _, count = name.partition("@")
        size = next(each for each in SIZES[::-1] if kind.endswith(each))
        threshold = kind.removesuffix(size)[2:]
        rows = slice(None) if not threshold else np.isclose(self.thresholds, int(threshold) / 100)
        most = len(self.counts) - 1
        if kind.startswith("AR"):
            return _mean(self.recall[rows, :, SIZES.index(size), self.counts.index(int(count))])
        column = self.counts.index(100) if name == "AP" and 100 in self.counts else most
        return _mean(self.precision[rows, :, :, SIZES.index(size), column])

    def of_class(self, label: int) -> float:
        """AP of one class, of the most detections."""
        if label not in self.labels:
            return -1.0
        return _mean(self.precision[:, :, self.labels.index(label), 0, -1])


def _mean(values: NDArray[np.float64]) -> float:
    known = values[values > -1]
    return float(known.mean()) if known.size else -1.0


def figures(
    kind: str,
    tables: tuple[Table, Table, Table],
    counts: Sequence[int],
    thresholds: Sequence[float],
    by_class: bool = True,
) -> Figures:
    """Evaluates `kind` (bbox or segm) of tables of images, annotations and results.

    Without `by_class` detections may be of any class.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    images, truth, found = tables
    labels = sorted({entry["category_id"] for entry in truth})
    categories = [{"id": label, "name": str(label)} for label in labels]
    common: Mapping[str, Any] = {"info": {}, "images": images, "categories": categories}
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
        expected, results = COCO(), COCO()
        expected.dataset = {**common, "annotations": truth}
        expected.createIndex()
        if found:
            results = expected.loadRes(found)
        else:
            results.dataset = {**common, "annotations": []}
            results.createIndex()
        evaluation = COCOeval(expected, results, kind)
        evaluation.params.maxDets = sorted(counts)
        evaluation.params.iouThrs = np.array(thresholds)
        evaluation.params.useCats = int(by_class)
        evaluation.evaluate()
        evaluation.accumulate()
    table = evaluation.eval
    return Figures(
        table["precision"],
        table["recall"],
        np.array(thresholds),
        tuple(sorted(counts)),
        tuple(labels),
    )
