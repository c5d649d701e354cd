"""Cityscapes' instance-level average precision of masks, equal to cityscapesscripts'.

Source: evaluation/evalInstanceLevelSemanticLabeling.py of cityscapesScripts, and
mmdet/evaluation/metrics/cityscapes_metric.py. Letters: D detections, G instances, K scores.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cupola.errors import BuildError, DataError
from cupola.files import locate
from cupola.files.images import read_id_map
from cupola.registry import METRICS

Array = NDArray[Any]
# The classes with instances, by their ids in the maps; an id of 1000 or more is class * 1000 + n.
IDS = {"person": 24, "rider": 25, "car": 26, "truck": 27, "bus": 28, "train": 31,
       "motorcycle": 32, "bicycle": 33}  # fmt: skip
VOID = (0, 1, 2, 3, 4, 5, 6, 9, 10, 14, 15, 16, 18, 29, 30)  # classes that are not evaluated
LEAST_PIXELS = 100  # smaller instances count as ignored
THRESHOLDS = np.arange(0.5, 1.0, 0.05)
IMAGE, TRUTH = "_leftImg8bit.png", "_gtFine_instanceIds.png"


class _Class(NamedTuple):
    """One class in one image.

    common: pixels that detections and instances share [D, G]. found, true: their pixels [D], [G].
    ignored: pixels of each detection that are void [D]. scores [D]. is_group [G].
    """

    common: Array
    found: Array
    true: Array
    ignored: Array
    scores: Array
    is_group: Array


@METRICS.register_module()
class CityScapesMetric:
    """cityscapes_AP over IoU 0.50:0.95 and cityscapes_AP50 of masks.

    The maps of instances are in `seg_prefix`: the map of CITY/NAME_leftImg8bit.png is
    CITY/NAME_gtFine_instanceIds.png. Only pixels count: boxes are not compared.
    """

    published_names: Mapping[str, str] = {
        "cityscapes/mAP": "cityscapes_AP",
        "cityscapes/AP@50": "cityscapes_AP50",
    }

    def __init__(
        self,
        seg_prefix: str = "",
        outfile_prefix: str | None = None,
        format_only: bool = False,
        keep_results: bool = False,
        dump_matches: bool = False,
        backend_args: Any = None,
        collect_device: str = "cpu",
    ) -> None:
        if format_only:
            raise BuildError("CityScapesMetric: format_only is not available; nothing is written")
        self.folder = Path(seg_prefix)
        self.names: Sequence[str] = tuple(IDS)
        self.reset()

    def use(self, dataset: Any) -> None:
        """Takes the names of the classes from a dataset."""
        names = tuple(getattr(dataset, "names", ()))
        if unknown := sorted(set(names) - set(IDS)):
            raise DataError(
                f"CityScapesMetric: {', '.join(unknown[:3])}: not a class of Cityscapes with "
                f"instances; they are {', '.join(IDS)}"
            )
        self.names = names or tuple(IDS)

    def reset(self) -> None:
        """Discards all images."""
        self._images: list[dict[str, _Class]] = []

    def update(self, batch: Mapping[str, Any], predictions: Sequence[Any]) -> None:
        """Adds a batch; a prediction has masks [D, H, W], scores [D] and labels [D]."""
        if "file_name" not in batch:
            raise DataError("CityScapesMetric: needs a CityscapesDataset with test_mode=True")
        for name, found in zip(batch["file_name"], predictions, strict=True):
            if found.masks is None:
                raise DataError("CityScapesMetric: needs a model with masks")
            ids = read_id_map(locate(self.folder, name.replace(IMAGE, TRUTH)), DataError)
            masks = found.masks.cpu().numpy().astype(bool)
            if masks.shape[1:] != ids.shape:
                raise DataError(f"{name}: masks of {masks.shape[1:]}, its map has {ids.shape}")
            labels = found.labels.cpu().numpy()
            own = found.scores if found.mask_scores is None else found.mask_scores
            scores = own.cpu().double().numpy()
            self._images.append(
                {
                    class_name: _in_image(ids, IDS[class_name], masks[chosen], scores[chosen])
                    for label, class_name in enumerate(self.names)
                    for chosen in [labels == label]
                }
            )

    def compute(self) -> dict[str, float]:
        """Both values, 0..1, over the classes that have instances."""
        if not self._images:
            raise DataError("Cityscapes AP needs at least one image; the dataset is empty")
        table = np.array(
            [
                [precision([image[name] for image in self._images], t) for t in THRESHOLDS]
                for name in self.names
            ]
        )  # [classes, thresholds]
        known = ~np.isnan(table)
        if not known.any():
            raise DataError("Cityscapes AP needs at least one instance; the maps have none")
        whole, at_50 = np.nanmean(table), np.nanmean(table[:, 0])
        return {"cityscapes_AP": float(whole), "cityscapes_AP50": float(at_50)}


def _in_image(ids: Array, class_id: int, masks: Array, scores: Array) -> _Class:
    """The overlaps of masks [D, H, W] of a class with its instances in the map [H, W]."""
    used = masks.any((1, 2)) if len(masks) else np.zeros(0, bool)
    masks, scores = masks[used], scores[used]
    own = [n for n in np.unique(ids).tolist() if n == class_id or n // 1000 == class_id]
    common = np.array([[(mask & (ids == n)).sum() for n in own] for mask in masks], np.int64)
    void = np.isin(ids, VOID)
    return _Class(
        common.reshape(len(masks), len(own)),
        masks.sum((1, 2)).reshape(len(masks)),
        np.array([(ids == n).sum() for n in own], np.int64),
        np.array([(mask & void).sum() for mask in masks], np.int64),
        scores,
        np.array([n < 1000 for n in own], bool),
    )


def precision(images: Sequence[_Class], threshold: float) -> float:
    """The average precision of a class at an IoU; NaN without instances."""
    right, scores, missed, some = [], [], 0, False
    for image in images:
        hits, misses = _judged(image, threshold)
        right += [each[0] for each in hits]
        scores += [each[1] for each in hits]
        missed += misses
        some |= bool((~image.is_group & (image.true >= LEAST_PIXELS)).any())
    if not some:
        return float("nan")
    return _area(np.array(right, float), np.array(scores, float), missed) if right else 0.0


def _judged(image: _Class, threshold: float) -> tuple[list[tuple[bool, float]], int]:
    """(whether it is right, score) of every detection that counts, and the instances missed.

    Of several detections that match an instance the best is right, and the others are wrong.
    """
    whole = image.found[:, None] + image.true - image.common
    matches = (image.common > 0) & (image.common / np.maximum(whole, 1) > threshold)
    counts = ~image.is_group & (image.true >= LEAST_PIXELS)
    used = np.zeros(len(image.found), bool)
    results: list[tuple[bool, float]] = []
    missed = 0
    for instance in np.flatnonzero(counts):
        rows = np.flatnonzero(matches[:, instance] & ~used)
        used[rows] = True
        if not len(rows):
            missed += 1
            continue
        best, *others = sorted(image.scores[rows].tolist(), reverse=True)
        results += [(True, best), *((False, score) for score in others)]
    excused = image.common[:, ~counts].sum(1) + image.ignored
    small_groups = image.is_group & (image.true < LEAST_PIXELS)  # the original counts them twice
    excused = excused + image.common[:, small_groups].sum(1)
    for row in np.flatnonzero(~matches.any(1)):
        if excused[row] / image.found[row] <= threshold:
            results.append((False, float(image.scores[row])))
    return results, missed


def _area(right: Array, scores: Array, missed: int) -> float:
    """The area below the curve of precision over recall, each step at its own precision."""
    order = np.argsort(scores)
    ordered, hits = scores[order], np.append(np.cumsum(right[order]), 0.0)
    _, starts = np.unique(ordered, return_index=True)
    total, count = hits[len(right) - 1], len(right)
    below = hits[starts - 1]  # right ones with a lower score; index -1 is 0
    positive = total - below
    precisions = np.append(positive / (count - starts), 1.0)
    recalls = np.append(positive / (total + missed) if total + missed else positive, 0.0)
    padded = np.concatenate(([recalls[0]], recalls, [0.0]))
    steps = np.convolve(padded, [-0.5, 0, 0.5], "valid")
    return float(precisions @ steps)
