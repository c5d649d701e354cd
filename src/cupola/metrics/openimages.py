"""The mean average precision of Open Images."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cupola.errors import BuildError, DataError
from cupola.metrics.voc import MeanAP
from cupola.registry import METRICS


@METRICS.register_module()
class OpenImagesMetric(MeanAP):
    """mAP of boxes at `iou_thrs`, for an OpenImagesDataset.

    With get_supercategory objects and detections count for the classes above theirs, too. With
    filter_labels detections of classes that an image has neither objects nor image-level labels of
    do not count. With use_group_of a box around a group is found by the boxes of which `ioa_thrs`
    lies in it.
    """

    prefix = "openimages"

    def __init__(
        self,
        iou_thrs: float | Sequence[float] = 0.5,
        ioa_thrs: float | Sequence[float] | None = 0.5,
        scale_ranges: Any = None,
        use_group_of: bool = True,
        get_supercategory: bool = True,
        filter_labels: bool = True,
        collect_device: str = "cpu",
    ) -> None:
        if scale_ranges is not None or ioa_thrs not in (0.5, [0.5], (0.5,), None):
            raise BuildError(
                "OpenImagesMetric: only ioa_thrs=0.5 without scale_ranges is available"
            )
        self.grouped, self.expands, self.filters = use_group_of, get_supercategory, filter_labels
        self._above: Sequence[Sequence[int]] | None = None
        super().__init__(iou_thrs)

    def use(self, dataset: Any) -> None:
        """Takes the hierarchy of the classes from a dataset."""
        while not hasattr(dataset, "above") and hasattr(dataset, "dataset"):
            dataset = dataset.dataset
        if not hasattr(dataset, "above"):
            raise DataError("OpenImagesMetric: needs an OpenImagesDataset")
        self._above = dataset.above

    def expanded(
        self, batch: Mapping[str, Any], index: int, truth: Any, labels: Any, boxes: Any, scores: Any
    ) -> tuple[Any, Any, Any, Any]:
        """The truth and the detections with the classes above, without unknown ones."""
        assert self._above is not None
        if not self.grouped:
            truth = {**truth, "groups": np.zeros(len(truth["labels"]), bool)}
        if self.expands:
            rows, above = self._with_above(truth["labels"])
            truth = {key: value[rows] for key, value in truth.items()} | {"labels": above}
        known = {*truth["labels"].tolist(), *(batch["image_labels"][index] or ())}
        rows, wider = self._with_above(labels) if self.expands else (np.arange(len(labels)), labels)
        kept = np.isin(wider, sorted(known))
        if not self.filters:  # classes above only where the image has them
            kept |= wider == labels[rows]
        return truth, wider[kept], boxes[rows[kept]], scores[rows[kept]]

    def _with_above(self, labels: Any) -> tuple[Any, Any]:
        """Rows and labels: every label, then those above each."""
        assert self._above is not None
        pairs = [(row, upper) for row, label in enumerate(labels) for upper in self._above[label]]
        rows = np.array([*range(len(labels)), *(row for row, _ in pairs)], int)
        return rows, np.array([*labels, *(upper for _, upper in pairs)], int)
