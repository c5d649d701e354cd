"""CocoPanopticDataset: a folder of images with a COCO panoptic file and a PNG map for each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cupola.data.annotation_masks import boxes_around, check_masks
from cupola.data.image_dataset import ImageDataset
from cupola.data.pipeline import Sample
from cupola.errors import DataError
from cupola.files import locate, read_json
from cupola.files.images import read_image
from cupola.registry import DATASETS
from cupola.structures import IMAGENET_MEAN, IMAGENET_STD, PanopticTruth, TrueSegment


@dataclass(frozen=True)
class PanopticImage:
    """One image of the file: its names, its size and its segments as the file has them."""

    id: Any
    image: str
    map: str
    segments: tuple[Mapping[str, Any], ...]


@DATASETS.register_module()
class CocoPanopticDataset(ImageDataset):
    """Samples with a mask for every thing and for every class of stuff, and the panoptic truth.

    `data_prefix` has the folders of the images (img) and of the PNG maps (seg), in which a pixel's
    segment id is R + 256 G + 65536 B. Labels are the things in the order of their category ids,
    then the stuff, or `metainfo["classes"]`. Crowds are no targets, and are ignored by the metric.
    Source of the format: cocodataset.org/#format-data, section 4.
    """

    def __init__(
        self,
        data_root: str = "",
        ann_file: str = "panoptic.json",
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
        super().__init__(pipeline, test_mode, seed, mean, std, channel_order)
        self.root = Path(data_root)
        prefix = data_prefix or {}
        self.folder = self.root / prefix.get("img", "images")
        self.maps = self.root / prefix.get("seg", "panoptic")
        self.file = self.root / ann_file
        content = read_json(self.file)
        if not isinstance(content, dict) or "categories" not in content:
            raise DataError(f"{self.file}: not a COCO panoptic file")
        self.names = self._read_categories(content["categories"], metainfo or {})
        self.images = self._read_images(content, {} if test_mode else filter_cfg or {})
        if not self.images:
            raise DataError(f"{self.file}: no image is left after filtering")

    def _read_categories(self, entries: Any, metainfo: Mapping[str, Any]) -> tuple[str, ...]:
        try:
            known = sorted(entries, key=lambda each: (not each["isthing"], each["id"]))
            names = tuple(metainfo.get("classes") or (each["name"] for each in known))
            labels = {name: label for label, name in enumerate(names)}
            chosen = [each for each in known if each["name"] in labels]
            self._label_of = {each["id"]: labels[each["name"]] for each in chosen}
            self._things = {labels[each["name"]] for each in chosen if each["isthing"]}
        except (KeyError, TypeError) as error:
            raise DataError(
                f"{self.file}: categories need id, name and isthing ({error!r})"
            ) from None
        if not self._label_of:
            raise DataError(f"{self.file}: none of the classes {list(names)} is in it")
        return names

    def _read_images(
        self, content: Mapping[str, Any], rules: Mapping[str, Any]
    ) -> list[PanopticImage]:
        try:
            files = {each["id"]: str(each["file_name"]) for each in content["images"]}
            found = [
                PanopticImage(
                    each["image_id"],
                    files[each["image_id"]],
                    str(each["file_name"]),
                    tuple(each["segments_info"]),
                )
                for each in content["annotations"]
            ]
        except (KeyError, TypeError) as error:
            raise DataError(f"{self.file}: not a COCO panoptic file ({error!r})") from None
        empty = rules.get("filter_empty_gt", False)
        return [each for each in found if each.segments or not empty]

    def __len__(self) -> int:
        return len(self.images)

    def path(self, index: int) -> Path:
        """The file of image `index`."""
        return locate(self.folder, self.images[index].image)

    def truth(self, index: int) -> PanopticTruth:
        """The segments of image `index`, in its own pixels."""
        image = self.images[index]
        path = locate(self.maps, image.map)
        rgb = read_image(path, error=DataError).astype(np.int64)
        ids = rgb[..., 0] + 256 * rgb[..., 1] + 65536 * rgb[..., 2]  # [H, W]
        segments = tuple(self._segment(each, path) for each in image.segments)
        if len({each.id for each in segments}) < len(segments):
            raise DataError(f"{self.file}: segments_info of {path.name} has an id more than once")
        return PanopticTruth(ids, segments)

    def _segment(self, entry: Mapping[str, Any], path: Path) -> TrueSegment:
        try:
            label = self._label_of.get(entry["category_id"], -1)
            crowd = bool(entry.get("iscrowd", 0))
            return TrueSegment(int(entry["id"]), label, label in self._things, crowd)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise DataError(
                f"{self.file}: segments_info of {path.name} needs id and category_id ({error!r})"
            ) from None

    def _targets(self, truth: PanopticTruth) -> dict[str, Any]:
        """Things one by one, then a mask for each class of stuff."""
        used = [each for each in truth.segments if each.label >= 0 and not each.crowd]
        groups = [[each] for each in used if each.is_thing]
        for label in sorted({each.label for each in used if not each.is_thing}):
            groups.append([each for each in used if each.label == label])
        check_masks(len(groups), truth.ids.shape, str(self.file))
        masks = np.zeros((len(groups), *truth.ids.shape), bool)
        for mask, group in zip(masks, groups, strict=True):
            mask[:] = np.isin(truth.ids, [each.id for each in group])
        kept = masks.any((1, 2))
        labels = np.array([group[0].label for group in groups], np.int64)
        return {
            "boxes": boxes_around(masks[kept]),
            "labels": labels[kept],
            "crowd": np.zeros(int(kept.sum()), bool),
            "masks": masks[kept],
        }

    def load(self, index: int) -> Sample:
        """Sample `index` before the pipeline."""
        path, truth = self.path(index), self.truth(index)
        rgb = Image.fromarray(read_image(path, error=DataError))
        if (rgb.height, rgb.width) != truth.ids.shape:
            raise DataError(f"{path}: its map is of {truth.ids.shape[::-1]} pixels, not {rgb.size}")
        return {
            "image": rgb,
            "scale_factor": (1.0, 1.0),
            **self._targets(truth),
            "panoptic": truth,
            "image_id": self.images[index].id,
            "original_size": (rgb.height, rgb.width),
        }
