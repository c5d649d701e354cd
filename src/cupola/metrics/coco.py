"""COCO average precision by pycocotools."""

import contextlib
import io
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from cupola.errors import DataError
from cupola.registry import METRICS

# The order of COCOeval.stats for boxes.
COCO_NAMES = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")


@METRICS.register_module(["CocoMetric", "CocoAP"])
class CocoMetric:
    """AP over IoU 0.50:0.95, AP50, AP75 and AP by object size, of boxes.

    Ground truth comes from the batches (targets in pixels of the resized image, which
    `scale_factors` map back to the original), so any detection dataset can be evaluated. The AP of
    a size without objects is -1, as in pycocotools.
    """

    # MMDetection's names, with which configs choose the best checkpoint.
    published_names: ClassVar[Mapping[str, str]] = {
        f"{prefix}bbox_mAP{theirs}": f"AP{ours}"
        for prefix in ("", "coco/")
        for theirs, ours in {
            "": "", "_50": "50", "_75": "75", "_s": "_small", "_m": "_medium", "_l": "_large"
        }.items()
    }  # fmt: skip

    def __init__(self, max_detections: int = 100, **ignored: Any) -> None:
        self.max_detections = max_detections
        self.reset()

    def reset(self) -> None:
        """Discards all images."""
        self._images: list[dict[str, Any]] = []
        self._truth: list[dict[str, Any]] = []
        self._found: list[dict[str, Any]] = []

    def update(self, batch: Mapping[str, Any], predictions: Sequence[Any]) -> None:
        """Adds a batch; a prediction has boxes [N, 4] xyxy, scores [N] and labels [N]."""
        for index, found in enumerate(predictions):
            image_id = len(self._images) + 1  # in pycocotools id 0 means "no match"
            height, width = batch["original_sizes"][index]
            self._images.append({"id": image_id, "height": height, "width": width})
            target = batch["targets"][index]
            factor = np.tile(np.asarray(batch["scale_factors"][index], np.float64), 2)
            corners = target["boxes"].detach().cpu().double().numpy() / factor
            crowd = target.get("crowd")
            for row, box in enumerate(_xywh(corners)):
                self._truth.append(
                    {
                        "id": len(self._truth) + 1,
                        "image_id": image_id,
                        "category_id": int(target["labels"][row]),
                        "bbox": box,
                        "area": box[2] * box[3],
                        "iscrowd": int(crowd[row]) if crowd is not None else 0,
                    }
                )
            boxes = _xywh(found.boxes.detach().cpu().double().numpy())
            pairs = zip(boxes, found.scores.tolist(), found.labels.tolist(), strict=True)
            for box, score, label in pairs:
                self._found.append(
                    {"image_id": image_id, "category_id": label, "bbox": box, "score": score}
                )

    def compute(self) -> dict[str, float]:
        """The metrics by name, 0..1. Raises DataError if there were no images."""
        if not self._images:
            raise DataError("COCO AP needs at least one image; the dataset is empty")
        if not self._found:
            return dict.fromkeys(COCO_NAMES, 0.0)
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        labels = {entry["category_id"] for entry in self._truth}
        categories = [{"id": label, "name": str(label)} for label in sorted(labels)]
        with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
            truth = COCO()
            truth.dataset = {
                "info": {},
                "images": self._images,
                "annotations": self._truth,
                "categories": categories,
            }
            truth.createIndex()
            evaluation = COCOeval(truth, truth.loadRes(self._found), "bbox")
            evaluation.params.maxDets = [1, 10, self.max_detections]
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        return dict(zip(COCO_NAMES, map(float, evaluation.stats[:6]), strict=True))


def _xywh(corners: Any) -> list[list[float]]:
    """xyxy [N, 4] -> rows of left, top, width, height."""
    rows = np.concatenate((corners[:, :2], corners[:, 2:] - corners[:, :2]), axis=1)
    result: list[list[float]] = rows.tolist()
    return result
