"""CrowdHuman: a file with a JSON object in each line, with the people of an image.

Source of the format: crowdhuman.org, and mmdet/datasets/crowdhuman.py.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cupola.data.image_dataset import ImageDataset, loads
from cupola.data.pipeline import Sample
from cupola.errors import DataError
from cupola.files import locate
from cupola.files.images import read_image
from cupola.files.opening import read_text
from cupola.registry import DATASETS
from cupola.structures import IMAGENET_MEAN, IMAGENET_STD
from cupola.structures.class_names import names_of

LARGEST = 256 * 2**20  # bytes; the training set has 90 MB
LARGEST_PIXEL = 1e6


@dataclass(frozen=True)
class _People:
    """The people of an image: boxes xyxy [N, 4], labels [N], and which do not count [N]."""

    id: str
    boxes: Any
    labels: Any
    ignored: Any


@DATASETS.register_module()
class CrowdHumanDataset(ImageDataset):
    """Samples of an .odgt file; boxes are those of whole bodies (fbox).

    `ann_file` and `data_prefix["img"]` (or a text) are relative to `data_root`; an image is ID.jpg.
    "crowd" marks people that are ignored and what is no person; in training they are left out.
    id_hw_*.json, a cache of image sizes, is not read.
    """

    def __init__(
        self,
        data_root: str = "",
        ann_file: str = "annotation_train.odgt",
        data_prefix: Mapping[str, str] | str | None = None,
        pipeline: Sequence[Mapping[str, Any]] = (),
        metainfo: Mapping[str, Any] | None = None,
        filter_cfg: Mapping[str, Any] | None = None,
        test_mode: bool = False,
        extra_ann_file: str | None = None,
        backend_args: Any = None,
        seed: int = 0,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        channel_order: str = "rgb",
    ) -> None:
        super().__init__(pipeline, test_mode, seed, mean, std, channel_order)
        if loads(pipeline, "with_mask") or loads(pipeline, "with_seg"):
            raise DataError("CrowdHumanDataset: has boxes only; set with_mask=False")
        prefix = data_prefix if isinstance(data_prefix, str) else (data_prefix or {}).get("img", "")
        self.folder, self.file = Path(data_root) / prefix, Path(data_root) / ann_file
        names = (metainfo or {}).get("classes") or names_of("CrowdHumanDataset")
        self.names = (names,) if isinstance(names, str) else tuple(names)
        self._seen: set[str] = set()
        lines = read_text(self.file, LARGEST).split("\n")
        found = [self._read(n, line) for n, line in enumerate(lines, 1) if line.strip()]
        if self._seen and self._seen.isdisjoint(self.names):
            have = sorted(self._seen)[:20]
            raise DataError(f"{self.file}: none of the classes {list(self.names)} is in {have}")
        empty = not test_mode and bool((filter_cfg or {}).get("filter_empty_gt", False))
        self.images = [each for each in found if not empty or not each.ignored.all()]
        if not self.images:
            raise DataError(f"{self.file}: no image is left after filtering")

    def _read(self, number: int, line: str) -> _People:
        where = f"{self.file}, line {number}"
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{where}: not JSON ({error!s:.80})") from None
        people = entry.get("gtboxes") if isinstance(entry, dict) else None
        if not isinstance(people, list) or not isinstance(entry.get("ID"), str):
            raise DataError(f"{where}: expected an object with ID and gtboxes, as CrowdHuman has")
        rows = [self._person(each, where) for each in people]
        boxes = np.array([row[0] for row in rows], np.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        labels, ignored = (np.array([row[i] for row in rows], t) for i, t in ((1, int), (2, bool)))
        return _People(entry["ID"], boxes, labels, ignored)

    def _person(self, entry: Any, where: str) -> tuple[list[float], int, bool]:
        """The box, the label, and whether it is ignored."""
        box = entry.get("fbox") if isinstance(entry, dict) else None
        if not isinstance(box, list) or len(box) != 4 or not all(map(_is_pixel, box)):
            raise DataError(f"{where}: fbox is {box!r:.60}; expected left, top, width, height")
        extra = entry.get("extra")
        marked = isinstance(extra, dict) and extra.get("ignore", 0) != 0
        self._seen.add(str(entry.get("tag")))
        known = entry.get("tag") in self.names
        return box, self.names.index(entry["tag"]) if known else 0, marked or not known

    def __len__(self) -> int:
        return len(self.images)

    def class_labels(self, index: int) -> set[int]:
        """The labels of the people of image `index` that count."""
        image = self.images[index]
        return set(image.labels[~image.ignored].tolist())

    def path(self, index: int) -> Path:
        """The file of image `index`."""
        return locate(self.folder, f"{self.images[index].id}.jpg")

    def load(self, index: int) -> Sample:
        """Sample `index` before the pipeline."""
        image = self.images[index]
        rgb = Image.fromarray(read_image(self.path(index), error=DataError))
        boxes = image.boxes.clip(0, np.array(rgb.size * 2, np.float32))
        kept = (boxes[:, 2:] > boxes[:, :2]).all(1) & (self.test_mode | ~image.ignored)
        sample: Sample = {
            "image": rgb,
            "scale_factor": (1.0, 1.0),
            "boxes": boxes[kept],
            "labels": image.labels[kept],
            "crowd": image.ignored[kept],
            "image_id": image.id,
            "original_size": (rgb.height, rgb.width),
        }
        return {**sample, "annotations": _truth(image)} if self.test_mode else sample


def _truth(image: _People) -> list[dict[str, Any]]:
    """All boxes as entries of a COCO file, also those outside of the image."""
    sides = np.concatenate((image.boxes[:, :2], image.boxes[:, 2:] - image.boxes[:, :2]), 1)
    rows = zip(sides.tolist(), image.labels.tolist(), image.ignored.tolist(), strict=True)
    return [
        {"category_id": label, "bbox": box, "area": box[2] * box[3], "iscrowd": int(ignored)}
        for box, label, ignored in rows
    ]


def _is_pixel(value: Any) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return abs(value) < LARGEST_PIXEL  # NaN is not
