"""The mean average precision of Pascal VOC."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cupola.errors import BuildError, DataError
from cupola.metrics.average_precision import ClassInImage, average_precision
from cupola.registry import METRICS

MODES = ("11points", "area")


class MeanAP:
    """Base: collects boxes, and means average_precision over the classes that have objects."""

    prefix = ""
    eleven_points = False
    extra = 0.0

    def __init__(self, iou_thrs: float | Sequence[float]) -> None:
        given: list[Any] = [*iou_thrs] if isinstance(iou_thrs, Sequence) else [iou_thrs]
        if not given or not all(isinstance(t, int | float) and 0 < t <= 1 for t in given):
            raise BuildError(f"{type(self).__name__}: iou_thrs is {iou_thrs!r:.60}; expected 0..1")
        self.thresholds = [float(each) for each in given]
        names = ["mAP", *(f"AP{round(100 * t):02d}" for t in self.thresholds)]
        # MMDetection's names, with which configs choose the best checkpoint.
        self.published_names = {f"{self.prefix}/{name}": name for name in names}
        self.reset()

    def reset(self) -> None:
        """Discards all images."""
        self._images: list[dict[int, ClassInImage]] = []

    def update(self, batch: Mapping[str, Any], predictions: Sequence[Any]) -> None:
        """Adds a batch; a prediction has boxes [N, 4] xyxy, scores [N] and labels [N]."""
        for index, found in enumerate(predictions):
            truth = _truth(batch, index)
            boxes, scores = (
                part.detach().cpu().double().numpy() for part in (found.boxes, found.scores)
            )
            labels = found.labels.detach().cpu().numpy()
            truth, labels, boxes, scores = self.expanded(batch, index, truth, labels, boxes, scores)
            known = {*labels.tolist(), *truth["labels"].tolist()}
            self._images.append(
                {
                    label: ClassInImage(
                        boxes[labels == label],
                        scores[labels == label],
                        *(truth[key][truth["labels"] == label] for key in KEYS),
                    )
                    for label in known
                }
            )

    def expanded(
        self, batch: Mapping[str, Any], index: int, truth: Any, labels: Any, boxes: Any, scores: Any
    ) -> tuple[Any, Any, Any, Any]:
        """What a subclass adds to, or removes from, the truth and the detections of an image."""
        return truth, labels, boxes, scores

    def compute(self) -> dict[str, float]:
        """mAP, the mean over the IoU thresholds, and AP50, ... by threshold."""
        if not self._images:
            raise DataError("mean AP needs at least one image; the dataset is empty")
        labels = sorted({label for image in self._images for label in image})
        values = {}
        for threshold in self.thresholds:
            found = [
                average_precision(
                    [image[label] for image in self._images if label in image],
                    threshold,
                    self.eleven_points,
                    self.extra,
                )
                for label in labels
            ]
            known = [value for value, count in found if count]
            values[f"AP{round(100 * threshold):02d}"] = float(np.mean(known)) if known else 0.0
        return {"mAP": float(np.mean([*values.values()])), **values}


KEYS = ("boxes", "ignored", "groups")


def _truth(batch: Mapping[str, Any], index: int) -> dict[str, Any]:
    """Boxes [G, 4] in pixels of the original image, labels, ignored and groups [G]."""
    if "annotations" in batch:
        entries = batch["annotations"][index]
        boxes = np.array([each["bbox"] for each in entries], float).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        return {
            "boxes": boxes,
            "labels": np.array([each["category_id"] for each in entries], int),
            "ignored": np.array([each["iscrowd"] for each in entries], bool),
            "groups": np.array([each.get("is_group", False) for each in entries], bool),
        }
    target = batch["targets"][index]
    factor = np.tile(np.asarray(batch["scale_factors"][index], float), 2)
    labels = target["labels"].cpu().numpy()
    crowd = target.get("crowd")
    return {
        "boxes": target["boxes"].detach().cpu().double().numpy() / factor,
        "labels": labels,
        "ignored": np.zeros(len(labels), bool) if crowd is None else crowd.cpu().numpy(),
        "groups": np.zeros(len(labels), bool),
    }


@METRICS.register_module()
class VOCMetric(MeanAP):
    """mAP of boxes at `iou_thrs`, with the last pixel part of a box, as in the tools of VOC.

    eval_mode: "11points" (VOC2007) or "area" (since VOC2010). Difficult objects do not count.
    """

    prefix = "pascal_voc"
    extra = 1.0

    def __init__(
        self,
        iou_thrs: float | Sequence[float] = 0.5,
        scale_ranges: Any = None,
        metric: str | Sequence[str] = "mAP",
        proposal_nums: Any = None,
        eval_mode: str = "11points",
        collect_device: str = "cpu",
    ) -> None:
        if eval_mode not in MODES:
            raise BuildError(f"VOCMetric: eval_mode is {eval_mode!r}; use {' or '.join(MODES)}")
        if metric not in ("mAP", ["mAP"], ("mAP",)) or scale_ranges is not None:
            raise BuildError("VOCMetric: only metric='mAP' without scale_ranges is available")
        self.eleven_points = eval_mode == MODES[0]
        super().__init__(iou_thrs)
