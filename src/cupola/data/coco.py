"""CocoDataset: a folder of images with a COCO instances file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from cupola.data.detection import collate_detection
from cupola.data.transforms import Compose
from cupola.errors import DataError
from cupola.files import locate, read_json
from cupola.files.images import read_image
from cupola.registry import DATASETS
from cupola.structures import IMAGENET_MEAN, IMAGENET_STD, normalize


def read_instances(path: Path) -> dict[str, Any]:
    """The content of a COCO instances file. Raises DataError if it is not one."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise DataError(f"{path}: not a COCO file, its top is not an object")
    missing = [key for key in ("images", "annotations", "categories") if key not in content]
    if missing:
        raise DataError(f"{path}: not a COCO file, {', '.join(missing)} missing")
    return dict(content)


@DATASETS.register_module()
class CocoDataset:
    """Samples of a COCO folder, augmented by MMDetection's pipelines and normalized.

    `ann_file` and `data_prefix` are relative to `data_root`. Labels follow the order of the
    category ids, or `metainfo["classes"]` where given. In training (test_mode False) crowd boxes
    are left out, and `filter_cfg` may drop images without objects and small images. Random choices
    for sample i are drawn from (seed, epoch, i).
    """

    def __init__(
        self,
        data_root: str = "",
        ann_file: str = "instances.json",
        data_prefix: Mapping[str, str] | None = None,
        pipeline: Sequence[Mapping[str, Any]] = (),
        metainfo: Mapping[str, Any] | None = None,
        filter_cfg: Mapping[str, Any] | None = None,
        test_mode: bool = False,
        seed: int = 0,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        channel_order: str = "rgb",
        backend_args: Any = None,
    ) -> None:
        self.root = Path(data_root)
        self.folder = self.root / (data_prefix or {}).get("img", "images")
        self.test_mode, self.seed, self.epoch = test_mode, seed, 0
        self.pipeline = Compose(pipeline)
        self.mean, self.std = tuple(mean), tuple(std)
        if channel_order not in ("rgb", "bgr"):
            raise DataError(f"channel_order: expected 'rgb' or 'bgr', got {channel_order!r}")
        self.channel_step = 1 if channel_order == "rgb" else -1
        content = read_instances(self.root / ann_file)
        self.names = self._read_categories(content, metainfo or {})
        self.images = self._read_images(content, {} if test_mode else filter_cfg or {})
        if not self.images:
            raise DataError(f"{self.root / ann_file}: no image is left after filtering")

    def _read_categories(
        self, content: Mapping[str, Any], metainfo: Mapping[str, Any]
    ) -> tuple[str, ...]:
        known = sorted(content["categories"], key=lambda entry: entry["id"])
        names = tuple(metainfo.get("classes") or (entry["name"] for entry in known))
        labels = {name: label for label, name in enumerate(names)}
        self._label_of = {e["id"]: labels[e["name"]] for e in known if e["name"] in labels}
        if not self._label_of:
            have = [entry["name"] for entry in known]
            raise DataError(f"{self.root}: none of the classes {list(names)} is in {have}")
        return names

    def _read_images(
        self, content: Mapping[str, Any], rules: Mapping[str, Any]
    ) -> list[dict[str, Any]]:
        objects: dict[int, list[Any]] = {}
        for entry in content["annotations"]:
            if entry["category_id"] in self._label_of:
                objects.setdefault(entry["image_id"], []).append(entry)
        images = []
        for image in content["images"]:
            found = objects.get(image["id"], [])
            small = min(image["width"], image["height"]) < rules.get("min_size", 0)
            if not small and (found or not rules.get("filter_empty_gt", False)):
                images.append({**image, "objects": found})
        return images

    def __len__(self) -> int:
        return len(self.images)

    def set_epoch(self, epoch: int) -> None:
        """Changes the random transforms of the samples read from now on."""
        self.epoch = epoch

    def _objects(self, image: Mapping[str, Any]) -> dict[str, Any]:
        boxes, labels, crowd = [], [], []
        for entry in image["objects"]:
            left, top, width, height = entry["bbox"]
            right = min(left + width, image["width"])
            bottom = min(top + height, image["height"])
            left, top = max(left, 0), max(top, 0)
            is_crowd = bool(entry.get("iscrowd", 0))
            if right > left and bottom > top and (self.test_mode or not is_crowd):
                boxes.append((left, top, right, bottom))
                labels.append(self._label_of[entry["category_id"]])
                crowd.append(is_crowd)
        return {
            "boxes": np.array(boxes, np.float32).reshape(-1, 4),
            "labels": np.array(labels, np.int64),
            "crowd": np.array(crowd, bool),
        }

    def path(self, index: int) -> Path:
        """The file of image `index`."""
        return locate(self.folder, str(self.images[index]["file_name"]))

    def truth(self, index: int) -> tuple[tuple[int, int], dict[str, torch.Tensor]]:
        """(height, width) of image `index` and its target, in its own pixels."""
        image = self.images[index]
        target = {key: torch.from_numpy(value) for key, value in self._objects(image).items()}
        return (image["height"], image["width"]), target

    def __getitem__(self, index: int) -> dict[str, Any]:
        image, path = self.images[index], self.path(index)
        rgb = Image.fromarray(read_image(path, error=DataError))
        sample = {"image": rgb, "scale_factor": (1.0, 1.0), **self._objects(image)}
        sample = self.pipeline(sample, np.random.default_rng((self.seed, self.epoch, index)))
        rows = np.asarray(sample["image"])[..., :: self.channel_step]
        pixels = rows.transpose(2, 0, 1).copy()  # [3, H, W]
        return {
            **sample,
            "image": normalize(torch.from_numpy(pixels), self.mean, self.std),
            "boxes": torch.from_numpy(sample["boxes"]),
            "labels": torch.from_numpy(sample["labels"]),
            "crowd": torch.from_numpy(sample["crowd"]),
            "image_id": image["id"],
            "original_size": (image["height"], image["width"]),
        }

    collate = staticmethod(collate_detection)
