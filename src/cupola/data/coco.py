"""CocoDataset: a folder of images with a COCO instances file."""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from cupola.data.annotation_masks import check_masks, mask_of
from cupola.data.coco_file import Instances, read_instances
from cupola.data.image_dataset import ImageDataset, loads
from cupola.data.pipeline import Sample
from cupola.errors import DataError
from cupola.files import locate
from cupola.files.images import read_class_map, read_image, read_size
from cupola.files.proposals import read_proposals
from cupola.registry import DATASETS
from cupola.structures import IMAGENET_MEAN, IMAGENET_STD
from cupola.structures.masks import encode_rle

logger = logging.getLogger("cupola")


def slashes(name: str) -> str:
    """A file name with the separators of this system, where a tool on Windows wrote it."""
    return name.replace("\\", "/")


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that is too long, or with a null character
        return False


@DATASETS.register_module()
class CocoDataset(ImageDataset):
    """Samples of a COCO folder, augmented by MMDetection's pipelines and normalized.

    `ann_file` and `data_prefix` (a folder, or dict(img=folder)) are relative to `data_root`;
    without `data_prefix` the images are looked for in `images`, in `data_root` and beside the
    annotation file. Labels follow the order of the category ids, or `metainfo["classes"]` where
    given. In training (test_mode False) crowds are left out, and `filter_cfg` may drop images
    without objects and small images. Random choices for sample i are drawn from (seed, epoch, i).
    `with_mask`, by default as LoadAnnotations in the pipeline has it, adds masks [N, H, W];
    objects without a segmentation are left out then. LoadAnnotations with_seg=True adds the maps
    of classes [H, W] in `data_prefix["seg"]`, named as the images with the ending
    `seg_map_suffix`.
    `proposal_file` (.pkl or .json), relative to `data_root`, has the proposals of every image, for
    a Fast R-CNN.
    `return_classes` has no effect: a training gives the classes to models that search for a text.
    With test_mode a sample also holds "annotations", the `ground_truth` for CocoMetric, and its
    "file_name".
    """

    def __init__(
        self,
        data_root: str = "",
        ann_file: str = "instances.json",
        data_prefix: Mapping[str, str] | str | None = None,
        pipeline: Sequence[Mapping[str, Any]] = (),
        metainfo: Mapping[str, Any] | None = None,
        filter_cfg: Mapping[str, Any] | None = None,
        test_mode: bool = False,
        with_mask: bool | None = None,
        backend_args: Any = None,
        return_classes: bool = False,
        seg_map_suffix: str = ".png",
        proposal_file: str | None = None,
        seed: int = 0,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        channel_order: str = "rgb",
    ) -> None:
        super().__init__(pipeline, test_mode, seed, mean, std, channel_order)
        self.root = Path(data_root)
        self.with_mask = loads(pipeline, "with_mask") if with_mask is None else with_mask
        self.maps = self._map_folder(data_prefix) if loads(pipeline, "with_seg") else None
        self.map_suffix = seg_map_suffix
        self.proposals = read_proposals(self.root / proposal_file) if proposal_file else None
        self._warned = False
        self.file = self.root / ann_file
        content = self.read(self.file)
        self.folder = self._image_folder(data_prefix, content)
        self.names = self._read_categories(content, metainfo or {})
        self.images = self._read_images(content, {} if test_mode else filter_cfg or {})
        if not self.images:
            raise DataError(f"{self.file}: no image is left after filtering")

    def read(self, path: Path) -> Instances:
        """The content of the file of annotations."""
        return read_instances(path)

    def _image_folder(self, prefix: Mapping[str, str] | str | None, content: Instances) -> Path:
        """The folder of the images; without a prefix the usual one that has the first image."""
        named = prefix.get("img") if isinstance(prefix, Mapping) else prefix
        usual = list(dict.fromkeys((self.root / "images", self.root, self.file.parent)))
        first = content.images[0]["file_name"] if content.images else ""
        found = [each for each in usual if first and _is_file(each / slashes(first))]
        if named is None:
            return found[0] if found else usual[0]
        folder = self.root / named
        if found and not _is_file(folder / slashes(first)):
            raise DataError(
                f"{folder / first}: no such image; it is in {found[0]}, so set data_prefix to "
                f"{os.path.relpath(found[0], self.root)!r}"
            )
        return folder

    def _map_folder(self, prefix: Mapping[str, str] | str | None) -> Path:
        named = prefix.get("seg") if isinstance(prefix, Mapping) else None
        if not named:
            raise DataError('LoadAnnotations with_seg: needs data_prefix["seg"], a folder of maps')
        return self.root / named

    def _read_categories(self, content: Instances, metainfo: Mapping[str, Any]) -> tuple[str, ...]:
        have = list(content.categories.values())
        names = metainfo.get("classes") or have
        names = (names,) if isinstance(names, str) else tuple(names)
        labels = {name: label for label, name in enumerate(names)}
        known = content.categories.items()
        self._label_of = {number: labels[name] for number, name in known if name in labels}
        if not self._label_of:
            raise DataError(f"{self.file}: none of the classes {list(names)} is in {have}")
        return names

    def _read_images(self, content: Instances, rules: Mapping[str, Any]) -> list[dict[str, Any]]:
        images = []
        for place, image in enumerate(content.images):
            found = [
                entry
                for entry in content.objects[image["id"]]
                if entry["category_id"] in self._label_of
            ]
            if not (image["width"] and image["height"]):
                image["height"], image["width"] = read_size(self._locate(image), DataError)
            small = min(image["width"], image["height"]) < rules.get("min_size", 0)
            if not small and (found or not rules.get("filter_empty_gt", False)):
                images.append({**image, "objects": found, "place": place})
        return images

    def __len__(self) -> int:
        return len(self.images)

    def class_labels(self, index: int) -> set[int]:
        """The labels of the objects of image `index`."""
        return {self._label_of[entry["category_id"]] for entry in self.images[index]["objects"]}

    def annotations(self, index: int) -> list[dict[str, Any]]:
        """The annotations of image `index` that become its target, in order, as in the file.

        Each has a "box" (xyxy, clipped to the image) besides its own keys; "segmentation" is kept
        as it is. Boxes without an area and, in training, crowds and those marked `ignore` are left
        out.
        """
        return self._targets(self.images[index], self.images[index])

    def _targets(self, image: Mapping[str, Any], size: Mapping[str, int]) -> list[dict[str, Any]]:
        found = []
        if self.with_mask:
            where = f"{self.file}: image {image['id']!r:.60}"
            check_masks(len(image["objects"]), (size["height"], size["width"]), where)
        for entry in image["objects"]:
            left, top, width, height = entry["bbox"]
            right = min(left + width, size["width"])
            bottom = min(top + height, size["height"])
            box = (max(left, 0), max(top, 0), right, bottom)
            left_out = entry["iscrowd"] or entry["ignore"]
            if right > box[0] and bottom > box[1] and (self.test_mode or not left_out):
                kept = {**entry, "box": box}
                if self.with_mask:
                    where = f"{self.file}: annotation {entry['id']!r:.60}"
                    kept["mask"] = mask_of(entry, (size["height"], size["width"]), where)
                if not self.with_mask or kept["mask"] is not None:
                    found.append(kept)
        return found

    def ground_truth(self, index: int, size: tuple[int, int] | None = None) -> list[dict[str, Any]]:
        """All annotations of image `index` as pycocotools takes them, for CocoMetric.

        Crowds and boxes that leave the image or have no area are in it, as they are in the file.
        Each has "category_id" (the label), "bbox", "area" (by default that of the mask or box),
        "iscrowd" and, with masks, "segmentation" (an RLE for an image of `size`, (height, width)).
        """
        image = self.images[index]
        found = []
        for entry in image["objects"]:
            truth = {
                "category_id": self._label_of[entry["category_id"]],
                "bbox": entry["bbox"],
                "area": entry["bbox"][2] * entry["bbox"][3],
                "iscrowd": int(entry["iscrowd"]),
            }
            if self.with_mask:
                where = f"{self.file}: annotation {entry['id']!r:.60}"
                mask = mask_of(entry, size or (image["height"], image["width"]), where)
                if mask is not None:
                    truth |= {"segmentation": encode_rle(mask), "area": int(mask.sum())}
            if entry.get("area") is not None:
                truth["area"] = entry["area"]
            found.append(truth)
        return found

    def _arrays(
        self, targets: Sequence[Mapping[str, Any]], size: Mapping[str, int]
    ) -> dict[str, Any]:
        arrays = self._box_arrays(targets)
        if self.with_mask:
            shape = (len(targets), size["height"], size["width"])
            masks = [entry["mask"] for entry in targets]
            arrays["masks"] = np.array(masks, bool).reshape(shape)
        return arrays

    def _box_arrays(self, targets: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        labels = [self._label_of[entry["category_id"]] for entry in targets]
        return {
            "boxes": np.array([entry["box"] for entry in targets], np.float32).reshape(-1, 4),
            "labels": np.array(labels, np.int64),
            "crowd": np.array([entry["iscrowd"] for entry in targets], bool),
        }

    def _locate(self, image: Mapping[str, Any]) -> Path:
        name = image["file_name"]
        return locate(self.folder, name if _is_file(self.folder / name) else slashes(name))

    def size(self, index: int) -> tuple[int, int]:
        """(width, height) of image `index`."""
        return self.images[index]["width"], self.images[index]["height"]

    def path(self, index: int) -> Path:
        """The file of image `index`."""
        return self._locate(self.images[index])

    def truth(self, index: int) -> tuple[tuple[int, int], dict[str, torch.Tensor]]:
        """(height, width) of image `index` and its target, in its own pixels."""
        image = self.images[index]
        arrays = self._arrays(self.annotations(index), image)
        target = {key: torch.from_numpy(value) for key, value in arrays.items()}
        return (image["height"], image["width"]), target

    def load(self, index: int) -> Sample:
        """Sample `index` before the pipeline."""
        image, path = self.images[index], self.path(index)
        rgb = Image.fromarray(read_image(path, error=DataError))
        size = {"width": rgb.width, "height": rgb.height}
        if (image["width"], image["height"]) != rgb.size:
            self._warn_of_size(path, image, rgb)
        sample = {
            "image": rgb,
            "scale_factor": (1.0, 1.0),
            **self._arrays(self._targets(image, size), size),
            "image_id": image["id"],
            "original_size": (rgb.height, rgb.width),
        }
        if self.proposals is not None:
            sample["proposals"] = self.proposals.find(path, image["place"])
        if self.maps is not None:
            name = Path(slashes(image["file_name"])).with_suffix(self.map_suffix)
            path = locate(self.maps, str(name))
            sample["semantic"] = read_class_map(path, DataError)
            if sample["semantic"].shape != (rgb.height, rgb.width):
                shape = sample["semantic"].shape
                raise DataError(f"{path}: is {shape[1]} x {shape[0]} pixels, its image {rgb.size}")
        if self.test_mode:
            sample["annotations"] = self.ground_truth(index, (rgb.height, rgb.width))
            sample["file_name"] = slashes(image["file_name"])
        return sample

    def _warn_of_size(self, path: Path, image: Mapping[str, Any], rgb: Image.Image) -> None:
        """Once per dataset: boxes may lie elsewhere if the sizes were of another image."""
        if not self._warned:
            self._warned = True
            logger.warning(
                "%s: is %d x %d pixels, upright as its EXIF orientation says, but %d x %d in %s; "
                "the boxes are taken for the upright image",
                *(path, rgb.width, rgb.height, image["width"], image["height"], self.file.name),
            )
