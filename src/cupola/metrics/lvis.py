"""LVIS average precision, equal to lvis-api's."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cupola.errors import BuildError, DataError, did_you_mean
from cupola.metrics.coco import CocoMetric, of_mask
from cupola.metrics.coco_figures import THRESHOLDS as COCO_THRESHOLDS
from cupola.metrics.federated import THRESHOLDS, FederatedImage, precisions
from cupola.registry import METRICS

FREQUENCIES = {"r": "APr", "c": "APc", "f": "APf"}
NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", *FREQUENCIES.values())


@METRICS.register_module()
class LVISMetric(CocoMetric):
    """AP over IoU 0.50:0.95, AP50, AP75, AP by size (s, m, l) and by frequency (r, c, f) of boxes.

    With "segm" in `metric`, and for models with masks by default, the same of masks as mask_AP, ...
    The ground truth comes from an LVISV05Dataset or LVISV1Dataset. A value without objects is -1.
    """

    def _items(self, wanted: Sequence[str] | None) -> dict[str, str]:
        for item in wanted or ():
            if item not in NAMES:
                raise BuildError(
                    f"LVISMetric: metric_items has {item!r}{did_you_mean(str(item), NAMES)}; use "
                    f"{', '.join(NAMES)}"
                )
        if "proposal" in self.kinds or "proposal_fast" in self.kinds:
            raise BuildError("LVISMetric: metric is bbox or segm; measure proposals by CocoMetric")
        if self.thresholds != COCO_THRESHOLDS:
            raise BuildError("LVISMetric: iou_thrs is not available; they are 0.5, 0.55 ... 0.95")
        return {name: name for name in wanted or NAMES}

    def _published(self) -> dict[str, str]:
        return {
            f"{prefix}{kind}_{name}": f"{ours}{name}"
            for prefix in ("", "lvis/")
            for kind, ours in (("bbox", ""), ("segm", "mask_"))
            for name in self.items
        }

    def use(self, dataset: Any) -> None:
        """Takes the frequencies of the classes from a dataset."""
        while not hasattr(dataset, "frequencies") and hasattr(dataset, "dataset"):
            dataset = dataset.dataset
        if not hasattr(dataset, "frequencies"):
            raise DataError("LVISMetric: needs an LVISV05Dataset or LVISV1Dataset")
        super().use(dataset)
        self._frequencies: Sequence[str] = dataset.frequencies

    def reset(self) -> None:
        """Discards all images."""
        super().reset()
        self._known: list[Mapping[str, Any]] = []

    def update(self, batch: Mapping[str, Any], predictions: Sequence[Any]) -> None:
        """Adds a batch of an LVIS dataset in test mode; predictions as in CocoMetric."""
        super().update(batch, predictions)
        self._known += batch["federated"]

    def compute(self) -> dict[str, float]:
        """The metrics by name. Raises DataError if there were no images."""
        if not self._records:
            raise DataError("LVIS AP needs at least one image; the dataset is empty")
        values = {} if self.kinds == ("segm",) else self._of("bbox", "")
        return values | self._of("segmentation", "mask_") if self.masks else values

    def _of(self, kind: str, prefix: str) -> dict[str, float]:
        images = [
            FederatedImage(
                [each for each in record.truth if kind in each],
                [_with_area(each, kind) for each in record.found],
                frozenset(known["negative"]),
                frozenset(known["not_exhaustive"]),
            )
            for record, known in zip(self._in_order(), self._sorted_known(), strict=True)
        ]
        by_area = precisions(images, len(self._frequencies), kind)
        every = by_area[""]
        at = {f"AP{100 * t:.0f}": every[np.isclose(THRESHOLDS, t)] for t in (0.5, 0.75)}
        sizes = {f"AP{area}": by_area[area] for area in ("s", "m", "l")}
        rows = np.array(self._frequencies)
        often = {name: every[:, :, rows == kind] for kind, name in FREQUENCIES.items()}
        found = {"AP": every, **at, **sizes, **often}
        values = {f"{prefix}{name}": _mean(found[name]) for name in self.items}
        if self.classwise:
            rows = np.moveaxis(every, 2, 0)
            values |= {
                f"{prefix}AP/{name}": _mean(own) for name, own in zip(self.names, rows, strict=True)
            }
        return values

    def _order(self) -> list[int]:
        """The order of the images' ids, which decides between equal scores."""
        ids = [record.image_id for record in self._records]
        numbered = all(isinstance(each, int) for each in ids)
        return sorted(range(len(ids)), key=ids.__getitem__) if numbered else [*range(len(ids))]

    def _in_order(self) -> list[Any]:
        return [self._records[index] for index in self._order()]

    def _sorted_known(self) -> list[Mapping[str, Any]]:
        return [self._known[index] for index in self._order()]


def _with_area(entry: Mapping[str, Any], kind: str) -> dict[str, Any]:
    if kind == "bbox":
        return {**entry, "area": entry["bbox"][2] * entry["bbox"][3]}
    from pycocotools import mask as coco_mask

    return {**of_mask(entry), "area": float(coco_mask.area(entry["segmentation"]))}


def _mean(precision: Any) -> float:
    """The mean of what is known; -1 without any."""
    known = precision[precision > -1]
    return float(known.mean()) if known.size else -1.0
