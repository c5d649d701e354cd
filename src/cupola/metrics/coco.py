"""COCO average precision by pycocotools."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch.nn.functional as F

from cupola.errors import BuildError, DataError, did_you_mean
from cupola.metrics.coco_figures import THRESHOLDS, Table, figures
from cupola.metrics.recall import average_recall
from cupola.registry import METRICS
from cupola.structures import PanopticTruth
from cupola.structures.masks import encode_rle

COCO_NAMES = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")
KINDS = ("bbox", "segm", "proposal", "proposal_fast")
# The names of `metric_items`: those of AP, and how those of AR begin and end, by its numbers.
ITEMS = dict(zip(("mAP", "mAP_50", "mAP_75", "mAP_s", "mAP_m", "mAP_l"), COCO_NAMES, strict=True))
RECALLS = {
    "AR@100": ("AR", 0), "AR@300": ("AR", 1), "AR@1000": ("AR", 2), "AR_s@1000": ("AR_small", 2),
    "AR_m@1000": ("AR_medium", 2), "AR_l@1000": ("AR_large", 2)
}  # fmt: skip
PREFIXES = {"bbox": "", "segm": "mask_", "proposal": ""}


class _Record(NamedTuple):
    """An image: its id in the dataset, (height, width), and entries of COCO files without ids."""

    image_id: Any
    size: tuple[int, ...]
    truth: Table
    found: Table


@METRICS.register_module(["CocoMetric", "CocoAP"])
class CocoMetric:
    """AP over IoU 0.50:0.95, AP50, AP75 and AP by object size, of boxes.

    With "segm" in `metric` (a name or a list), and for models with masks by default, the same of
    masks as mask_AP, mask_AP50, ... With "proposal" instead the average recall of the boxes,
    whatever their class, by COCO's tools: AR@100, AR@300, AR@1000 and AR_small@1000, ...; with
    "proposal_fast" by a simpler one: AR@100, ... for each of `proposal_nums`.

    `proposal_nums` are the numbers of detections per image that count. As in MMDetection AP is of
    100, and the others are of the most of them, which matters for models with more than 100 boxes
    an image; `max_detections` sets one number for all. `metric_items` chooses values by
    MMDetection's names (mAP_50, AR@300, ...), `classwise` adds the AP of each class (AP/person),
    `iou_thrs` replaces the IoU thresholds.

    Ground truth comes from the batches, so any detection dataset can be evaluated: "annotations",
    the entries of a COCO file as CocoDataset.ground_truth gives them, or the targets, whose boxes
    `scale_factors` map back to the original image; `ann_file` is not read again. With annotations
    the result equals that of pycocotools on the file: sizes by the file's area, crowds, boxes that
    leave the image. The AP of a size or class without objects is -1, as in pycocotools.
    """

    # MMDetection's names, with which configs choose the best checkpoint.
    published_names: Mapping[str, str] = {}

    def __init__(
        self,
        max_detections: int | None = None,
        metric: str | Sequence[str] | None = None,
        proposal_nums: Sequence[int] = (100, 300, 1000),
        metric_items: Sequence[str] | None = None,
        classwise: bool = False,
        iou_thrs: float | Sequence[float] | None = None,
        format_only: bool = False,
        ann_file: str | None = None,
        outfile_prefix: str | None = None,
        use_mp_eval: bool = False,
        sort_categories: bool = False,
        backend_args: Any = None,
        file_client_args: Any = None,
        collect_device: str = "cpu",
    ) -> None:
        if format_only:
            raise BuildError(
                f"{type(self).__name__}: format_only is not available; predict writes what "
                "a model finds"
            )
        kinds = (metric,) if isinstance(metric, str) else metric
        for kind in kinds or ():
            if kind not in KINDS:
                raise BuildError(
                    f"CocoMetric: metric {kind!r}{did_you_mean(str(kind), KINDS)}; use "
                    f"{', '.join(KINDS)}"
                )
        self.wanted = None if kinds is None else "segm" in kinds
        self.kinds = tuple(kinds or ())
        for kind in KINDS[2:]:
            if kind in self.kinds and len(self.kinds) > 1:
                raise BuildError(f"CocoMetric: {kind} is measured alone")
        if not proposal_nums or not all(isinstance(n, int) and n > 0 for n in proposal_nums):
            raise BuildError(f"CocoMetric: proposal_nums is {proposal_nums!r:.60}; expected counts")
        self.proposals = tuple(proposal_nums)
        self.counts = (1, 10, max_detections) if max_detections else self.proposals
        self.thresholds = tuple(np.atleast_1d(THRESHOLDS if iou_thrs is None else iou_thrs))
        self.classwise = classwise
        self.names: tuple[str, ...] = ()
        self.items = self._items(metric_items)
        self.published_names = self._published()
        self.reset()

    def _items(self, wanted: Sequence[str] | None) -> dict[str, str]:
        """MMDetection's names of the values that are computed, and ours."""
        counts = sorted(self.counts)
        recalls = {
            theirs: f"{ours}@{counts[place]}"
            for theirs, (ours, place) in RECALLS.items()
            if place < len(counts)
        }
        if wanted is None:
            return recalls if "proposal" in self.kinds else ITEMS
        known = {**ITEMS, **recalls}
        for item in wanted:
            if item not in known:
                raise BuildError(
                    f"CocoMetric: metric_items has {item!r}{did_you_mean(str(item), [*known])}; "
                    f"use {', '.join(known)}"
                )
        return {item: known[item] for item in wanted}

    def _published(self) -> dict[str, str]:
        if "proposal_fast" in self.kinds:
            names = {f"AR@{number}": f"AR@{number}" for number in self.proposals}
        elif "proposal" in self.kinds:
            names = dict(self.items)
        else:
            names = {
                f"{kind}_{theirs}": f"{PREFIXES[kind]}{ours}"
                for kind in ("bbox", "segm")
                for theirs, ours in self.items.items()
            }
        return {f"{prefix}{name}": ours for prefix in ("", "coco/") for name, ours in names.items()}

    def use(self, dataset: Any) -> None:
        """Takes the names of the classes from a dataset."""
        while not hasattr(dataset, "names") and hasattr(dataset, "dataset"):
            dataset = dataset.dataset
        self.names = tuple(getattr(dataset, "names", ()))

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
            scores = getattr(found, "mask_scores", None)
            if scores is not None:
                for result, score in zip(results, scores.tolist(), strict=True):
                    result["mask_score"] = score
        return results

    def compute(self) -> dict[str, float]:
        """The metrics by name, 0..1. Raises DataError if there were no images."""
        if not self._records:
            raise DataError("COCO AP needs at least one image; the dataset is empty")
        if "proposal_fast" in self.kinds:
            return self._recalls()
        images, truth, found = _tables(self._records)
        values: dict[str, float] = {}
        if self.kinds != ("segm",) or not self.masks:
            kind = "proposal" if "proposal" in self.kinds else "bbox"
            values |= self._values(kind, (images, truth, found))
        if self.masks:
            with_mask = [entry for entry in truth if "segmentation" in entry]
            found = [of_mask(each) for each in found]  # masks of other sizes than their boxes
            values |= self._values("segm", (images, with_mask, found))
        return values

    def _values(self, kind: str, tables: tuple[Table, Table, Table]) -> dict[str, float]:
        by_class = kind != "proposal"
        how = (self.counts, self.thresholds, by_class)
        found = figures(kind if by_class else "bbox", tables, *how)
        prefix = PREFIXES[kind]
        values = {f"{prefix}{name}": found.figure(name) for name in self.items.values()}
        if self.classwise and by_class:
            names = self.names or [str(label) for label in range(max(found.labels, default=-1) + 1)]
            values |= {f"{prefix}AP/{name}": found.of_class(n) for n, name in enumerate(names)}
        return values

    def _recalls(self) -> dict[str, float]:
        """The average recall for each number of proposals."""
        images = []
        for record in self._records:
            objects = [each["bbox"] for each in record.truth if not each["iscrowd"]]
            best = sorted(record.found, key=lambda each: -each["score"])
            images.append((_corners(objects), _corners([each["bbox"] for each in best])))
        recalls = average_recall(images, self.proposals)
        return {f"AR@{n}": each for n, each in zip(self.proposals, recalls, strict=True)}


def _tables(records: Sequence[_Record]) -> tuple[Table, Table, Table]:
    """Images, annotations and results, numbered from 1 in the order of the images' ids.

    pycocotools takes the annotation 0 for "no match"; the order decides between equal scores.
    """
    ids = [record.image_id for record in records]
    if len({type(each) for each in ids}) == 1 and isinstance(ids[0], int | str):
        records = sorted(records, key=lambda record: record.image_id)
    images: Table = []
    truth: Table = []
    found: Table = []
    for number, record in enumerate(records, 1):
        height, width = record.size
        images.append({"id": number, "height": height, "width": width})
        for entry in record.truth:
            truth.append({**entry, "id": len(truth) + 1, "image_id": number})
        found += [{**result, "image_id": number} for result in record.found]
    return images, truth, found


def of_mask(result: Mapping[str, Any]) -> dict[str, Any]:
    """A result without its box, with the score of its mask where that is another one."""
    found = {key: value for key, value in result.items() if key not in ("bbox", "mask_score")}
    return {**found, "score": result.get("mask_score", result["score"])}


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
