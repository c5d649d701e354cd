"""COCO average precision by pycocotools."""

import contextlib
import io
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch.nn.functional as F

from cupola.errors import BuildError, DataError, did_you_mean
from cupola.metrics.recall import average_recall
from cupola.registry import METRICS
from cupola.structures import PanopticTruth
from cupola.structures.masks import encode_rle

# The order of COCOeval.stats for boxes.
COCO_NAMES = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")
KINDS = ("bbox", "segm", "proposal_fast")
MASK_NAMES = tuple(f"mask_{name}" for name in COCO_NAMES)

_Table = list[dict[str, Any]]


class _Record(NamedTuple):
    """An image: its id in the dataset, (height, width), and entries of COCO files without ids."""

    image_id: Any
    size: tuple[int, ...]
    truth: _Table
    found: _Table


@METRICS.register_module(["CocoMetric", "CocoAP"])
class CocoMetric:
    """AP over IoU 0.50:0.95, AP50, AP75 and AP by object size, of boxes.

    With "segm" in `metric` (a name or a list), and for models with masks by default, the same of
    masks as mask_AP, mask_AP50, ... With "proposal_fast" instead the average recall of the boxes,
    whatever their class: AR@100, ... for each of `proposal_nums`.

    Ground truth comes from the batches, so any detection dataset can be evaluated: "annotations",
    the entries of a COCO file as CocoDataset.ground_truth gives them, or the targets, whose boxes
    `scale_factors` map back to the original image. With annotations the result equals that of
    pycocotools on the file: sizes by the file's area, crowds, boxes that leave the image. The AP of
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
    } | {f"coco/AR@{number}": f"AR@{number}" for number in (100, 300, 1000)}  # fmt: skip

    def __init__(
        self,
        max_detections: int = 100,
        metric: str | Sequence[str] | None = None,
        proposal_nums: Sequence[int] = (100, 300, 1000),
        **ignored: Any,
    ) -> None:
        self.max_detections = max_detections
        kinds = (metric,) if isinstance(metric, str) else metric
        for kind in kinds or ():
            if kind not in KINDS:
                raise BuildError(
                    f"CocoMetric: metric {kind!r}{did_you_mean(str(kind), KINDS)}; use "
                    f"{', '.join(KINDS)}"
                )
        self.wanted = None if kinds is None else "segm" in kinds
        self.proposals = tuple(proposal_nums) if "proposal_fast" in (kinds or ()) else ()
        if self.proposals and len(kinds or ()) > 1:
            raise BuildError("CocoMetric: proposal_fast is measured alone")
        self.reset()

    def reset(self) -> None:
        """Discards all images."""
        self.masks = bool(self.wanted)
        self._records: list[_Record] = []

    def update(self, batch: Mapping[str, Any], predictions: Sequence[Any]) -> None:
        """Adds a batch; a prediction has boxes [N, 4] xyxy, scores [N], labels [N], maybe masks.

        Raises DataError where masks are wanted and either side has none.
        """
        for index, found in enumerate(predictions):
            target, size = batch["targets"][index], tuple(batch["original_sizes"][index])
            if "panoptic" in batch:
                target = _things(target, batch["panoptic"][index])
            have = target.get("masks") is not None and getattr(found, "masks", None) is not None
            if self.wanted is None and not self._records:
                self.masks = have
            if self.masks and not have:
                raise DataError(
                    "mask AP needs masks in the ground truth (LoadAnnotations with_mask=True) and "
                    "from the model"
                )
            if "annotations" in batch:
                truth = [dict(entry) for entry in batch["annotations"][index]]
            else:
                truth = self._entries(target, size, batch["scale_factors"][index])
            image_id = batch["image_ids"][index] if "image_ids" in batch else None
            self._records.append(_Record(image_id, size, truth, self._results(found)))

    def _entries(
        self, target: Mapping[str, Any], size: tuple[int, ...], scale_factor: Any
    ) -> list[dict[str, Any]]:
        """A target as the annotations of a COCO file; its labels become the category ids."""
        factor = np.tile(np.asarray(scale_factor, np.float64), 2)
        corners = target["boxes"].detach().cpu().double().numpy() / factor
        crowd = target.get("crowd")
        entries = []
        for row, box in enumerate(_xywh(corners)):
            entry = {
                "category_id": int(target["labels"][row]),
                "bbox": box,
                "area": box[2] * box[3],
                "iscrowd": int(crowd[row]) if crowd is not None else 0,
            }
            entries.append(entry)
        if self.masks:
            masks = target["masks"].detach().cpu()
            if tuple(masks.shape[1:]) != size:
                masks = F.interpolate(masks[:, None].float(), size=size)[:, 0] > 0.5
            for entry, mask in zip(entries, masks, strict=True):
                # pycocotools takes sizes from the masks' area for boxes, too
                entry |= {"segmentation": encode_rle(mask), "area": int(mask.sum())}
        return entries

    def _results(self, found: Any) -> list[dict[str, Any]]:
        boxes = _xywh(found.boxes.detach().cpu().double().numpy())
        rows = zip(boxes, found.scores.tolist(), found.labels.tolist(), strict=True)
        results = [
            {"category_id": label, "bbox": box, "score": score} for box, score, label in rows
        ]
        if self.masks:
            for result, mask in zip(results, found.masks, strict=True):
                result["segmentation"] = encode_rle(mask)
        return results

    def compute(self) -> dict[str, float]:
        """The metrics by name, 0..1. Raises DataError if there were no images."""
        if not self._records:
            raise DataError("COCO AP needs at least one image; the dataset is empty")
        if self.proposals:
            return self._recalls()
        names = COCO_NAMES + (MASK_NAMES if self.masks else ())
        images, truth, found = _tables(self._records)
        figures = self._figures("bbox", images, truth, found)
        if self.masks:
            with_mask = [entry for entry in truth if "segmentation" in entry]
            found = [_without_box(each) for each in found]  # masks of other sizes than their boxes
            figures += self._figures("segm", images, with_mask, found)
        return dict(zip(names, figures, strict=True))

    def _recalls(self) -> dict[str, float]:
        """The average recall for each number of proposals."""
        images = []
        for record in self._records:
            objects = [each["bbox"] for each in record.truth if not each["iscrowd"]]
            best = sorted(record.found, key=lambda each: -each["score"])
            images.append((_corners(objects), _corners([each["bbox"] for each in best])))
        recalls = average_recall(images, self.proposals)
        return {f"AR@{n}": each for n, each in zip(self.proposals, recalls, strict=True)}

    def _figures(self, kind: str, images: _Table, truth: _Table, found: _Table) -> list[float]:
        """The first six figures of COCOeval."""
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        labels = {entry["category_id"] for entry in truth}
        categories = [{"id": label, "name": str(label)} for label in sorted(labels)]
        common = {"info": {}, "images": images, "categories": categories}
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
            evaluation.params.maxDets = [1, 10, self.max_detections]
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        return [float(value) for value in evaluation.stats[:6]]


def _tables(records: Sequence[_Record]) -> tuple[_Table, _Table, _Table]:
    """Images, annotations and results, numbered from 1 in the order of the images' ids.

    pycocotools takes the annotation 0 for "no match"; the order decides between equal scores.
    """
    ids = [record.image_id for record in records]
    if len({type(each) for each in ids}) == 1 and isinstance(ids[0], int | str):
        records = sorted(records, key=lambda record: record.image_id)
    images: _Table = []
    truth: _Table = []
    found: _Table = []
    for number, record in enumerate(records, 1):
        height, width = record.size
        images.append({"id": number, "height": height, "width": width})
        for entry in record.truth:
            truth.append({**entry, "id": len(truth) + 1, "image_id": number})
        found += [{**result, "image_id": number} for result in record.found]
    return images, truth, found


def _without_box(result: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in result.items() if key != "bbox"}


def _things(target: Mapping[str, Any], truth: PanopticTruth) -> dict[str, Any]:
    """The objects of a panoptic target, without its stuff."""
    stuff = {segment.label for segment in truth.segments if not segment.is_thing}
    kept = [row for row, label in enumerate(target["labels"].tolist()) if label not in stuff]
    return {key: value[kept] for key, value in target.items()}


def _corners(rows: Sequence[Sequence[float]]) -> Any:
    """Rows of left, top, width, height -> xyxy [N, 4]."""
    boxes = np.array(rows, float).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return boxes


def _xywh(corners: Any) -> list[list[float]]:
    """xyxy [N, 4] -> rows of left, top, width, height."""
    rows = np.concatenate((corners[:, :2], corners[:, 2:] - corners[:, :2]), axis=1)
    result: list[list[float]] = rows.tolist()
    return result
