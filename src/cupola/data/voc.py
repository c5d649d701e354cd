"""Pascal VOC and WIDER FACE: a list of images, and an XML file with the objects of each.

Source: mmdet/datasets/xml_style.py, voc.py and wider_face.py.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

import numpy as np
from PIL import Image

from cupola.data.image_dataset import ImageDataset, loads
from cupola.data.pipeline import Sample
from cupola.errors import DataError
from cupola.files import locate
from cupola.files.images import read_image, read_size
from cupola.files.opening import read_text
from cupola.files.xml import read_xml
from cupola.registry import DATASETS
from cupola.structures import IMAGENET_MEAN, IMAGENET_STD
from cupola.structures.class_names import names_of

SIDES = ("xmin", "ymin", "xmax", "ymax")
LARGEST_LIST = 64 * 2**20  # bytes


@dataclass(frozen=True)
class _XmlImage:
    """One image: its name in the list, file, (width, height), boxes, labels and difficult flags."""

    id: str
    path: Path
    size: tuple[int, int]
    boxes: Any
    labels: Any
    difficult: Any


class XMLDataset(ImageDataset):
    """Samples of a list of images with an XML file for each.

    `ann_file` has a name in each line. Images are in `img_subdir` (name.jpg), XML files in
    `ann_subdir`, below `data_prefix["sub_data_root"]` (or "img", or a text), all relative to
    `data_root`. Other classes than `metainfo["classes"]` are left out. "crowd" marks objects that
    are difficult or, in training, smaller than `filter_cfg["bbox_min_size"]`; in training they are
    left out. With test_mode a sample has "annotations", with these as "iscrowd".
    """

    classes: tuple[str, ...] = ()
    shift = 1  # the files count pixels from 1

    def __init__(
        self,
        data_root: str = "",
        ann_file: str = "",
        data_prefix: Mapping[str, str] | str | None = None,
        pipeline: Sequence[Mapping[str, Any]] = (),
        metainfo: Mapping[str, Any] | None = None,
        filter_cfg: Mapping[str, Any] | None = None,
        test_mode: bool = False,
        img_subdir: str = "JPEGImages",
        ann_subdir: str = "Annotations",
        backend_args: Any = None,
        seed: int = 0,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        channel_order: str = "rgb",
    ) -> None:
        super().__init__(pipeline, test_mode, seed, mean, std, channel_order)
        if loads(pipeline, "with_mask") or loads(pipeline, "with_seg"):
            raise DataError(f"{type(self).__name__}: has boxes only; set with_mask=False")
        prefix = {"img": data_prefix} if isinstance(data_prefix, str) else data_prefix or {}
        below = prefix.get("sub_data_root", prefix.get("img", ""))
        self.root, self.file = Path(data_root) / below, Path(data_root) / ann_file
        self.image_folder, self.xml_folder = img_subdir, ann_subdir
        names = (metainfo or {}).get("classes") or self.classes
        self.names = (names,) if isinstance(names, str) else tuple(names)
        rules = {} if test_mode else dict(filter_cfg or {})
        self._smallest = rules.get("bbox_min_size") or 0
        listed = read_text(self.file, LARGEST_LIST).split("\n")
        self._seen: set[str] = set()
        found = [self._read(line.strip()) for line in listed if line.strip()]
        self.images = [each for each in found if self._is_wanted(each, rules)]
        if self._seen and self._seen.isdisjoint(self.names):
            have = sorted(self._seen)[:20]
            raise DataError(f"{self.file}: none of the classes {list(self.names)} is in {have}")
        if not self.images:
            raise DataError(f"{self.file}: no image is left after filtering")

    def _is_wanted(self, image: _XmlImage, rules: Mapping[str, Any]) -> bool:
        empty = not len(image.labels) and rules.get("filter_empty_gt", False)
        return not empty and min(image.size) >= rules.get("min_size", 0)

    def image_path(self, name: str, root: Element) -> Path:
        """The file of an image; `root` is its XML."""
        return locate(self.root, f"{self.image_folder}/{name}.jpg")

    def _read(self, name: str) -> _XmlImage:
        path = locate(self.root, f"{self.xml_folder}/{name}.xml")
        root = read_xml(path)
        image = self.image_path(name, root)
        labels = {each: label for label, each in enumerate(self.names)}
        objects = root.findall("object")
        self._seen.update(_text(each, "name", path) for each in objects)
        objects = [each for each in objects if _text(each, "name", path) in labels]
        boxes = np.array([self._box(each, path) for each in objects], np.float32).reshape(-1, 4)
        difficult = np.array([_flag(each, path) for each in objects], bool)
        if self._smallest:
            difficult |= (boxes[:, 2:] - boxes[:, :2] < self._smallest).any(1)
        return _XmlImage(
            name,
            image,
            _size(root, image, path),
            boxes,
            np.array([labels[_text(each, "name", path)] for each in objects], np.int64),
            difficult,
        )

    def _box(self, entry: Element, path: Path) -> list[int]:
        corners = entry.find("bndbox")
        if corners is None:
            raise DataError(f"{path}: an object has no bndbox")
        return [int(_number(corners, side, path)) - self.shift for side in SIDES]

    def __len__(self) -> int:
        return len(self.images)

    def size(self, index: int) -> tuple[int, int]:
        """(width, height) of image `index`."""
        return self.images[index].size

    def class_labels(self, index: int) -> set[int]:
        """The labels of the objects of image `index`."""
        return set(self.images[index].labels.tolist())

    def load(self, index: int) -> Sample:
        """Sample `index` before the pipeline."""
        image = self.images[index]
        rgb = Image.fromarray(read_image(image.path, error=DataError))
        size = np.array(rgb.size * 2, np.float32)
        boxes = image.boxes.clip(0, size)
        kept = (boxes[:, 2:] > boxes[:, :2]).all(1) & (self.test_mode | ~image.difficult)
        sample: Sample = {
            "image": rgb,
            "scale_factor": (1.0, 1.0),
            "boxes": boxes[kept],
            "labels": image.labels[kept],
            "crowd": image.difficult[kept],
            "image_id": image.id,
            "original_size": (rgb.height, rgb.width),
        }
        return {**sample, "annotations": self._truth(image)} if self.test_mode else sample

    def _truth(self, image: _XmlImage) -> list[dict[str, Any]]:
        """The objects as entries of a COCO file."""
        sides = np.concatenate((image.boxes[:, :2], image.boxes[:, 2:] - image.boxes[:, :2]), 1)
        rows = zip(sides.tolist(), image.labels.tolist(), image.difficult.tolist(), strict=True)
        return [
            {"category_id": label, "bbox": box, "area": box[2] * box[3], "iscrowd": int(difficult)}
            for box, label, difficult in rows
        ]


@DATASETS.register_module()
class VOCDataset(XMLDataset):
    """XMLDataset of a folder such as VOC2007, with its 20 classes."""

    classes = names_of("VOCDataset")


@DATASETS.register_module()
class WIDERFaceDataset(XMLDataset):
    """XMLDataset of WIDER FACE, whose XML names the folder of the image."""

    classes = names_of("WIDERFaceDataset")
    shift = 0

    def image_path(self, name: str, root: Element) -> Path:
        """The file of an image; `root` is its XML."""
        folder = root.findtext("folder") or ""
        return locate(self.root, f"{folder}/{name}.jpg")


def _size(root: Element, image: Path, path: Path) -> tuple[int, int]:
    """(width, height), from the image where the XML does not say."""
    size = root.find("size")
    sides = (0, 0)
    if size is not None:
        sides = (int(_number(size, "width", path)), int(_number(size, "height", path)))
    if min(sides) <= 0:
        height, width = read_size(image, DataError)
        return width, height
    return sides


def _text(entry: Element, key: str, path: Path) -> str:
    found = (entry.findtext(key) or "").strip()
    if not found:
        raise DataError(f"{path}: {entry.tag} has no {key}")
    return found


def _number(entry: Element, key: str, path: Path) -> float:
    text = _text(entry, key, path)
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not abs(value) < 1e9:  # NaN is not
        raise DataError(f"{path}: {entry.tag}: {key} is {text!r:.40}; expected a number")
    return value


def _flag(entry: Element, path: Path) -> bool:
    text = (entry.findtext("difficult") or "0").strip()
    if text not in ("0", "1"):
        raise DataError(f"{path}: object: difficult is {text!r:.40}; expected 0 or 1")
    return text == "1"
