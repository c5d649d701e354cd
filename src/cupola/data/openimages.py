"""Open Images: boxes in CSV files, a hierarchy of classes, and boxes around groups.

Source: mmdet/datasets/openimages.py.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cupola.data.image_dataset import ImageDataset, loads
from cupola.data.openimages_files import (
    Classes,
    Objects,
    read_boxes,
    read_challenge_boxes,
    read_classes,
    read_hierarchy,
    read_image_labels,
    read_relations,
)
from cupola.data.pipeline import Sample
from cupola.errors import DataError
from cupola.files import locate
from cupola.files.images import read_image
from cupola.registry import DATASETS
from cupola.structures import IMAGENET_MEAN, IMAGENET_STD


@DATASETS.register_module()
class OpenImagesDataset(ImageDataset):
    """Samples of Open Images V4 to V7.

    Files are relative to `data_root`: ann_file (boxes), label_file (classes), hierarchy_file and,
    for the metric, image_level_ann_file. Images are in `data_prefix["img"]` (or a text). meta_file,
    a pickle of image sizes, is not read: boxes are scaled by the image's own size.

    `above` has, for each label, the labels that its objects have, too. With test_mode a sample has
    "annotations", with "is_group", and "image_labels", for OpenImagesMetric.
    """

    def __init__(
        self,
        ann_file: str,
        label_file: str,
        hierarchy_file: str,
        meta_file: str = "",
        image_level_ann_file: str | None = None,
        data_root: str = "",
        data_prefix: Mapping[str, str] | str | None = None,
        pipeline: Sequence[Mapping[str, Any]] = (),
        filter_cfg: Mapping[str, Any] | None = None,
        test_mode: bool = False,
        backend_args: Any = None,
        seed: int = 0,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        channel_order: str = "rgb",
    ) -> None:
        super().__init__(pipeline, test_mode, seed, mean, std, channel_order)
        if loads(pipeline, "with_mask") or loads(pipeline, "with_seg"):
            raise DataError(f"{type(self).__name__}: has boxes only; set with_mask=False")
        root = Path(data_root)
        prefix = data_prefix if isinstance(data_prefix, str) else (data_prefix or {}).get("img", "")
        self.folder, self.file = root / prefix, root / ann_file
        self.classes = self.read_classes(root / label_file)
        self.names = self.classes.names
        self.above = self.read_above(root / hierarchy_file)
        self.image_labels: Mapping[str, Sequence[int]] | None = None
        if image_level_ann_file and test_mode:
            self.image_labels = read_image_labels(root / image_level_ann_file, self.classes)
        self.images = self.read_objects()
        if not self.images:
            raise DataError(f"{self.file}: has no images")

    def read_classes(self, path: Path) -> Classes:
        """The classes of `label_file`."""
        return read_classes(path, numbered=False)

    def read_above(self, path: Path) -> list[tuple[int, ...]]:
        """The labels above each label, of `hierarchy_file`."""
        return read_hierarchy(path, self.classes)

    def read_objects(self) -> list[Objects]:
        """The objects of every image, of `ann_file`."""
        return read_boxes(self.file, self.classes)

    def __len__(self) -> int:
        return len(self.images)

    def class_labels(self, index: int) -> set[int]:
        """The labels of the objects of image `index`."""
        return set(self.images[index].labels)

    def load(self, index: int) -> Sample:
        """Sample `index` before the pipeline."""
        objects = self.images[index]
        rgb = Image.fromarray(read_image(locate(self.folder, objects.name), error=DataError))
        boxes = np.array(objects.boxes, np.float32).reshape(-1, 4) * np.array(rgb.size * 2)
        labels = np.array(objects.labels, np.int64)
        kept = (boxes[:, 2:] > boxes[:, :2]).all(1)
        sample: Sample = {
            "image": rgb,
            "scale_factor": (1.0, 1.0),
            "boxes": boxes[kept].astype(np.float32),
            "labels": labels[kept],
            "crowd": np.zeros(int(kept.sum()), bool),
            "image_id": Path(objects.name).stem,
            "original_size": (rgb.height, rgb.width),
        }
        if not self.test_mode:
            return sample
        known = None
        if self.image_labels is not None:
            known = list(self.image_labels.get(sample["image_id"], ()))
        return {**sample, "annotations": _truth(boxes, objects), "image_labels": known}


@DATASETS.register_module()
class OpenImagesChallengeDataset(OpenImagesDataset):
    """OpenImagesDataset of the challenge, whose files have other formats."""

    def read_classes(self, path: Path) -> Classes:
        """The classes of `label_file`, which have numbers."""
        return read_classes(path, numbered=True)

    def read_above(self, path: Path) -> list[tuple[int, ...]]:
        """The labels above each label, of a matrix in `hierarchy_file`."""
        return read_relations(path, len(self.names))

    def read_objects(self) -> list[Objects]:
        """The objects of every image, of `ann_file`, a text file."""
        return read_challenge_boxes(self.file, len(self.names))


def _truth(boxes: Any, objects: Objects) -> list[dict[str, Any]]:
    """The objects as entries of a COCO file."""
    sides = np.concatenate((boxes[:, :2], boxes[:, 2:] - boxes[:, :2]), 1).tolist()
    rows = zip(sides, objects.labels, objects.groups, strict=True)
    return [
        {
            "category_id": label,
            "bbox": box,
            "area": box[2] * box[3],
            "iscrowd": 0,
            "is_group": group,
        }
        for box, label, group in rows
    ]
