"""Albu: transforms of albumentations, an optional package, by MMDetection's name.

Source: mmdet/datasets/transforms/transforms.py.
"""

import os
import random as global_random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from cupola.data.pipeline import Config, Random, Sample, select
from cupola.data.pixels import as_array, as_image, size_of
from cupola.errors import DataError, did_you_mean
from cupola.registry import TRANSFORMS

INSTALL = 'pip install "cupola[albumentations]"'
KEYMAP = {"img": "image", "gt_masks": "masks", "gt_bboxes": "bboxes"}
LABELS = ("gt_bboxes_labels", "gt_labels")  # in 3.x and 2.x
READ_FILES = ("FDA", "HistogramMatching", "PixelDistributionAdaptation", "TemplateTransform")


@TRANSFORMS.register_module()
class Albu:
    """Applies transforms of albumentations, with bbox_params and keymap as MMDetection has them.

    The image is given to it in BGR. A keymap without "gt_bboxes" or "gt_masks" leaves these as they
    are; a map of classes needs "gt_seg_map": "mask" in it. With filter_lost_elements in bbox_params
    labels and masks of removed boxes are removed, too, and with skip_img_without_anno a sample that
    loses its last box is rejected. update_pad_shape has no effect: batches are padded later. The
    draws of albumentations depend on the sample's own generator only.
    """

    def __init__(
        self,
        transforms: Sequence[Config],
        bbox_params: Config | None = None,
        keymap: Mapping[str, str] | None = None,
        update_pad_shape: bool = False,
        skip_img_without_anno: bool = False,
    ) -> None:
        self.package = imported()
        params = dict(bbox_params or {})
        self.keymap = dict(keymap or KEYMAP)
        if "img" not in self.keymap:
            raise DataError(f"Albu: the keymap has no 'img'; expected such as {KEYMAP}")
        moves_boxes = "gt_bboxes" in self.keymap
        self.filter = moves_boxes and "label_fields" in params and "filter_lost_elements" in params
        params.pop("filter_lost_elements", None)
        if self.filter:
            params["label_fields"] = ["idx_mapper"]
        if moves_boxes and not params:
            raise DataError(
                "Albu: needs bbox_params, such as dict(type='BboxParams', format='pascal_voc', "
                "label_fields=['gt_bboxes_labels'], filter_lost_elements=True)"
            )
        self.skip = skip_img_without_anno
        steps = [self._built(each) for each in transforms]
        self.augment = self.package.Compose(
            steps, bbox_params=self._built(params) if params else None
        )

    def _built(self, cfg: Config) -> Any:
        """A transform, a composition of transforms, or the BboxParams."""
        options = dict(cfg)
        kind = str(options.pop("type", None))
        if kind in READ_FILES:
            raise DataError(f"Albu: {kind} reads files, which a config may not name; remove it")
        made = getattr(self.package, kind, None)
        bases = (self.package.BasicTransform, self.package.BaseCompose, self.package.BboxParams)
        if not isinstance(made, type) or not issubclass(made, bases):
            version = getattr(self.package, "__version__", "?")
            known = [name for name in dir(self.package) if name[:1].isupper()]
            raise DataError(
                f"Albu: albumentations {version} has no transform {kind!r}"
                f"{did_you_mean(kind, known)}"
            )
        if "transforms" in options:
            options["transforms"] = [self._built(each) for each in options["transforms"]]
        try:
            return made(**options)
        except (TypeError, ValueError) as error:
            raise DataError(f"Albu: {kind}: {error}") from None

    def __call__(self, sample: Sample, rng: Random) -> Sample | None:
        given = {self.keymap.get(key, key): value for key, value in self._fields(sample).items()}
        with drawing_from(rng, self.augment):
            moved = self.augment(**given)
        back = {key: moved[name] for key, name in self.keymap.items() if name in moved}
        kept = [int(each) for each in moved["idx_mapper"]] if self.filter else None
        if kept == [] and self.skip:
            return None
        found = sample if kept is None else select(sample, np.array(kept, np.int64))
        found = {**found, "image": as_image(np.ascontiguousarray(back["img"][..., ::-1]))}
        if "gt_bboxes" in back:
            found["boxes"] = np.array(back["gt_bboxes"], np.float32).reshape(-1, 4)
        if "gt_masks" in back and "masks" in sample:
            masks = back["gt_masks"] if kept is None else [back["gt_masks"][i] for i in kept]
            size = size_of(found["image"])[::-1]
            found["masks"] = np.array(masks, bool).reshape(-1, *size)
        if "gt_seg_map" in back:
            found["semantic"] = np.asarray(back["gt_seg_map"])
        if len(found["boxes"]) != len(found["labels"]):
            raise DataError(
                "Albu: some boxes were removed, but not their labels and masks; set "
                "filter_lost_elements=True and label_fields in bbox_params"
            )
        return found

    def _fields(self, sample: Sample) -> dict[str, Any]:
        """The sample with MMDetection's names."""
        image = np.ascontiguousarray(as_array(sample["image"])[..., ::-1])  # BGR
        found: dict[str, Any] = {"img": image, **dict.fromkeys(LABELS, sample["labels"])}
        found["gt_ignore_flags"] = sample["crowd"]
        if "gt_bboxes" in self.keymap:
            found |= {
                "gt_bboxes": list(sample["boxes"]),
                "idx_mapper": np.arange(len(sample["boxes"])),
            }
        if "gt_masks" in self.keymap and "masks" in sample:
            found["gt_masks"] = [each.astype(np.uint8) for each in sample["masks"]]
        if "semantic" in sample:
            if "gt_seg_map" not in self.keymap:
                raise DataError(
                    "Albu: the keymap leaves out the map of classes; add 'gt_seg_map': 'mask' to it"
                )
            found["gt_seg_map"] = np.ascontiguousarray(sample["semantic"])
        return found


def imported() -> Any:
    """The package albumentations; DataError says how to install it."""
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # later versions ask the network
    try:
        import albumentations
    except ImportError as error:
        raise DataError(f"Albu needs albumentations ({error}): {INSTALL}") from None
    return albumentations


@contextmanager
def drawing_from(rng: Random, augment: Any) -> Iterator[None]:
    """Seeds what albumentations draws from by one number of `rng`, and restores it."""
    states = global_random.getstate(), np.random.get_state()
    seed = int(rng.integers(2**32))
    global_random.seed(seed)
    np.random.seed(seed)
    if hasattr(augment, "set_random_seed"):  # since 1.4 a composition has its own generators
        augment.set_random_seed(seed)
    try:
        yield
    finally:
        global_random.setstate(states[0])
        np.random.set_state(states[1])
