"""COCO average precision by pycocotools."""

import contextlib
import io
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch.nn.functional as F

from cupola.errors import DataError
from cupola.registry import METRICS
from cupola.structures.masks import encode_rle

# The order of COCOeval.stats for boxes.
COCO_NAMES = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")
MASK_NAMES = tuple(f"mask_{name}" for name in COCO_NAMES)


@METRICS.register_module(["CocoMetric", "CocoAP"])
class CocoMetric:
    """AP over IoU 0.50:0.95, AP50, AP75 and AP by object size, of boxes.

    With "segm" in `metric` (a name or a list), and for models with masks by default, the same of
    masks as mask_AP, mask_AP50, ...

    Ground truth comes from the batches (targets in pixels of the resized image, which
    `scale_factors` map back to the original), so any detection dataset can be evaluated. The AP of
    a size without objects is -1, as in pycocotools.
    """

    # MMDetection's names, with which configs choose the best checkpoint.
    published_names: ClassVar[Mapping[str, str]] = {
        f"{prefix}{kind}_mAP{theirs}": f"{name}{ours}"
        for prefix in ("", "coco/")
        for kind, name in (("bbox", "AP"), ("segm", "mask_AP"))
        for theirs, ours in {
            "": "", "_50": "50", "_75": "75", "_s": "_small", "_m": "_medium", "_l": "_large"
        }.items()
    }  # fmt: skip

    def __init__(
        self,
        max_detections: int = 100,
        metric: str | Sequence[str] | None = None,
        **ignored: Any,
    ) -> None:
        self.max_detections = max_detections
        kinds = (metric,) if isinstance(metric, str) else metric
        self.wanted = None if kinds is None else "segm" in kinds
        self.reset()

    def reset(self) -> None:
        """Discards all images."""
        self.masks = bool(self.wanted)
        self._images: list[dict[str, Any]] = []
        self._truth: list[dict[str, Any]] = []
        self._found: list[dict[str, Any]] = []

    def update(self, batch: Mapping[str, Any], predictions: Sequence[Any]) -> None:
        """Adds a batch; a prediction has boxes [N, 4] xyxy, scores [N], labels [N], maybe masks.

        Raises DataError where masks are wanted and either side has none.
        """
        for index, found in enumerate(predictions):
            image_id = len(self._images) + 1  # in pycocotools id 0 means "no match"
            height, width = batch["original_sizes"][index]
            self._images.append({"id": image_id, "height": height, "width": width})
            target = batch["targets"][index]
            factor = np.tile(np.asarray(batch["scale_factors"][index], np.float64), 2)
            corners = target["boxes"].detach().cpu().double().numpy() / factor
            crowd = target.get("crowd")
            masks = self._masks(target, found, (height, width))
            for row, box in enumerate(_xywh(corners)):
                entry = {
                    "id": len(self._truth) + 1,
                    "image_id": image_id,
                    "category_id": int(target["labels"][row]),
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": int(crowd[row]) if crowd is not None else 0,
                }
                if masks:
                    # pycocotools takes sizes from the masks' area for boxes, too
                    entry |= {"segmentation": masks[0][row], "area": int(masks[1][row])}
                self._truth.append(entry)
            boxes = _xywh(found.boxes.detach().cpu().double().numpy())
            rows = zip(boxes, found.scores.tolist(), found.labels.tolist(), strict=True)
            for row, (box, score, label) in enumerate(rows):
                result = {"image_id": image_id, "category_id": label, "bbox": box, "score": score}
                if masks:
                    result["segmentation"] = encode_rle(found.masks[row])
                self._found.append(result)

    def _masks(
        self, target: Mapping[str, Any], found: Any, size: tuple[int, int]
    ) -> tuple[list[dict[str, Any]], list[int]] | None:
        """RLEs and areas of the true masks in the original image; None if only boxes count."""
        have = target.get("masks") is not None and getattr(found, "masks", None) is not None
        if self.wanted is None and not self._truth and not self._found:
            self.masks = self.masks or have
        if not self.masks:
            return None
        if not have:
            raise DataError(
                "mask AP needs masks in the ground truth (LoadAnnotations with_mask=True) and from "
                "the model"
            )
        masks = target["masks"].detach().cpu()
        if tuple(masks.shape[1:]) != tuple(size):
            masks = F.interpolate(masks[:, None].float(), size=tuple(size))[:, 0] > 0.5
        return [encode_rle(mask) for mask in masks], masks.flatten(1).sum(1).tolist()

    def compute(self) -> dict[str, float]:
        """The metrics by name, 0..1. Raises DataError if there were no images."""
        if not self._images:
            raise DataError("COCO AP needs at least one image; the dataset is empty")
        names = COCO_NAMES + (MASK_NAMES if self.masks else ())
        if not self._found:
            return dict.fromkeys(names, 0.0)
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
            results = truth.loadRes(self._found)
            figures: list[float] = []
            for kind in ("bbox", "segm") if self.masks else ("bbox",):
                if kind == "segm":  # masks of other sizes than their boxes
                    results = truth.loadRes([_without_box(each) for each in self._found])
                evaluation = COCOeval(truth, results, kind)
                evaluation.params.maxDets = [1, 10, self.max_detections]
                evaluation.evaluate()
                evaluation.accumulate()
                evaluation.summarize()
                figures += map(float, evaluation.stats[:6])
        return dict(zip(names, figures, strict=True))


def _without_box(result: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in result.items() if key != "bbox"}


def _xywh(corners: Any) -> list[list[float]]:
    """xyxy [N, 4] -> rows of left, top, width, height."""
    rows = np.concatenate((corners[:, :2], corners[:, 2:] - corners[:, :2]), axis=1)
    result: list[list[float]] = rows.tolist()
    return result
