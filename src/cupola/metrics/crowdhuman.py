"""CrowdHuman's average precision, log-average miss rate and Jaccard index.

Source: mmdet/evaluation/metrics/crowdhuman_metric.py, after CrowdDet's evaluation (arXiv
1805.00123, 2003.09163). Letters: D detections, G people that count, I ignored boxes.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import maximum_bipartite_matching

from cupola.errors import BuildError, DataError, did_you_mean
from cupola.metrics.average_precision import overlaps
from cupola.registry import METRICS

Array = NDArray[Any]
KINDS = ("AP", "MR", "JI")
NAMES = {"AP": "mAP", "MR": "mMR", "JI": "JI"}
FALSE_POSITIVES = {  # per image, at which the miss rate is read
    "CALTECH_-2": (0.01, 0.0178, 0.0316, 0.0562, 0.1, 0.1778, 0.3162, 0.5623, 1.0),
    "CALTECH_-4": (0.0001, 0.0003, 0.001, 0.0032, 0.01, 0.0316, 0.1, 0.3162, 1.0),
}
LEAST_SCORES = [0.1 * step for step in range(10)]


class _Image(NamedTuple):
    """Boxes xyxy in the image: of people [G, 4], ignored [I, 4], found [D, 4], scores [D]."""

    people: Array
    ignored: Array
    boxes: Array
    scores: Array


@METRICS.register_module()
class CrowdHumanMetric:
    """mAP (the area below the curve at an IoU of `iou_thres`), mMR (lower is better) and JI.

    Truth comes from a CrowdHumanDataset; `ann_file` is not read again. Only bodies
    (`eval_mode` 0) and Caltech's matching are available.
    """

    def __init__(
        self,
        ann_file: str = "",
        metric: str | Sequence[str] = KINDS,
        eval_mode: int = 0,
        iou_thres: float = 0.5,
        compare_matching_method: str | None = None,
        mr_ref: str = "CALTECH_-2",
        num_ji_process: int = 1,
        backend_args: Any = None,
        collect_device: str = "cpu",
    ) -> None:
        self.kinds = [metric] if isinstance(metric, str) else list(metric)
        for kind in self.kinds:
            if kind not in KINDS:
                raise BuildError(
                    f"CrowdHumanMetric: metric {kind!r}{did_you_mean(str(kind), KINDS)}; use "
                    f"{', '.join(KINDS)}"
                )
        if mr_ref not in FALSE_POSITIVES:
            raise BuildError(
                f"CrowdHumanMetric: mr_ref is {mr_ref!r}; use {' or '.join(FALSE_POSITIVES)}"
            )
        if eval_mode != 0 or compare_matching_method is not None:
            raise BuildError(
                "CrowdHumanMetric: only eval_mode=0 (bodies) without compare_matching_method is "
                "available"
            )
        self.threshold, self.points = float(iou_thres), FALSE_POSITIVES[mr_ref]
        self.published_names = {f"crowd_human/{name}": name for name in NAMES.values()}
        self.reset()

    def reset(self) -> None:
        """Discards all images."""
        self._images: list[_Image] = []

    def update(self, batch: Mapping[str, Any], predictions: Sequence[Any]) -> None:
        """Adds a batch; a prediction has boxes [D, 4] xyxy and scores [D]."""
        if "annotations" not in batch:
            raise DataError("CrowdHumanMetric: needs a CrowdHumanDataset with test_mode=True")
        for entries, size, found in zip(
            batch["annotations"], batch["original_sizes"], predictions, strict=True
        ):
            truth = np.array([each["bbox"] for each in entries], float).reshape(-1, 4)
            truth[:, 2:] += truth[:, :2]
            ignored = np.array([each["iscrowd"] for each in entries], bool)
            boxes = found.boxes.detach().cpu().double().numpy().reshape(-1, 4)
            scores = found.scores.detach().cpu().double().numpy()
            truth, boxes = _inside(truth, size), _inside(boxes, size)
            self._images.append(_Image(truth[~ignored], truth[ignored], boxes, scores))

    def compute(self) -> dict[str, float]:
        """mAP, mMR and JI, as far as they are asked for. DataError without people."""
        people = sum(len(image.people) for image in self._images)
        if not people:
            raise DataError("CrowdHuman's metrics need at least one person; the dataset has none")
        judged = [judge(image, self.threshold) for image in self._images]
        scores, right = (np.concatenate([each[i] for each in judged]) for i in (0, 1))
        right = right[np.argsort(-scores, kind="stable")]
        hits, wrong = np.cumsum(right), np.cumsum(~right)
        values = {}
        if "AP" in self.kinds:
            values["AP"] = area(hits / people, hits / np.maximum(hits + wrong, 1))
        if "MR" in self.kinds:
            values["MR"] = self._miss_rate(1 - hits / people, wrong / len(self._images))
        if "JI" in self.kinds:
            values["JI"] = max(self._jaccard(least) for least in LEAST_SCORES)
        return {NAMES[kind]: float(values[kind]) for kind in self.kinds}

    def _miss_rate(self, missed: Array, per_image: Array) -> float:
        """The geometric mean of the miss rates at the given false positives per image."""
        if not len(missed):
            return 1.0
        places = [min(int(np.searchsorted(per_image, p)), len(missed) - 1) for p in self.points]
        with np.errstate(divide="ignore"):  # a miss rate of 0
            return float(np.exp(np.log(missed[places]).mean()))

    def _jaccard(self, least: float) -> float:
        """The mean over images of matches / (people + detections - matches)."""
        rows = [jaccard(image, least, self.threshold) for image in self._images]
        used = sum(1 for _, some in rows if some)
        return sum(ratio for ratio, _ in rows) / used if used else 0.0


def judge(image: _Image, threshold: float) -> tuple[Array, Array]:
    """Scores of detections, best first, and whether each found a person.

    One takes the person of the largest IoU that is left. One that has none, but lies in an ignored
    box that is left, does not count. As in the original no ignored box is used up.
    """
    order = np.argsort(-image.scores, kind="stable")
    boxes, ordered = image.boxes[order], image.scores[order]
    ious = overlaps(boxes, image.people, 0.0)
    inside = overlaps(boxes, image.ignored, 0.0, of_first=True).max(1, initial=0)
    free = np.ones(len(image.people), bool)
    scores, right = [], []
    for row, score in enumerate(ordered):
        candidates = np.where(free, ious[row], 0)
        best = int(candidates.argmax()) if len(candidates) else -1
        if best >= 0 and candidates[best] > threshold:
            free[best] = False
        elif inside[row] > threshold:
            continue
        else:
            best = -1
        scores.append(score)
        right.append(best >= 0)
    return np.array(scores, float), np.array(right, bool)


def area(recall: Array, precision: Array) -> float:
    """The area below the curve from its first point on, by trapezoids."""
    return float(((precision[1:] + precision[:-1]) / 2 * np.diff(recall)).sum())


def jaccard(image: _Image, least: float, threshold: float) -> tuple[float, bool]:
    """The Jaccard index of an image, and whether it has people or detections that count."""
    boxes = image.boxes[image.scores > least]
    ious = overlaps(boxes, image.people, 0.0)
    partner = np.zeros(0, int)
    if ious.size:
        graph = csr_matrix(np.where(ious < threshold, 0, ious))
        partner = maximum_bipartite_matching(graph, perm_type="column")
    pairs = [(d, g) for d, g in enumerate(partner.tolist()) if g >= 0]
    found, people = {d for d, _ in pairs}, {g for _, g in pairs}
    spare = np.array([d not in found for d in range(len(boxes))], bool)
    missed = np.array([g not in people for g in range(len(image.people))], bool)
    detections = len(boxes) - _ignored(boxes[spare], image.ignored, threshold)
    persons = len(image.people) - _ignored(image.people[missed], image.ignored, threshold)
    ratio = len(pairs) / (persons + detections - len(pairs) + 1e-6)
    return ratio, bool(persons or detections)


def _ignored(boxes: Array, ignored: Array, threshold: float) -> int:
    """How many boxes lie in an ignored one."""
    return int((overlaps(boxes, ignored, 0.0, of_first=True) > threshold).any(1).sum())


def _inside(boxes: Array, size: Sequence[int]) -> Array:
    """Boxes clipped to an image of (height, width); corners at the left and top are pixels."""
    height, width = size
    low = boxes[:, :2].clip(0, [width - 1, height - 1])
    return np.concatenate((low, boxes[:, 2:].clip(0, [width, height])), 1)
