"""Image transforms by MMDetection's names, on PIL images and numpy boxes.

A transform takes a sample and the sample's own random generator and gives a new sample:
"image" a PIL image in RGB, "boxes" [N, 4] xyxy pixels of it, "labels" [N], "crowd" [N] bool,
perhaps "masks" [N, H, W] bool, and "scale_factor" (x, y) with respect to the original file.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from cupola.errors import DataError
from cupola.registry import TRANSFORMS
from cupola.structures.images import fit_size
from cupola.structures.masks import mask_boxes

Sample = dict[str, Any]
Config = Mapping[str, Any]

# Steps of published pipelines that CocoDataset performs itself.
for done_elsewhere in (
    "LoadImageFromFile",
    "LoadAnnotations",
    "LoadPanopticAnnotations",
    "PackDetInputs",
):
    TRANSFORMS.register_module(done_elsewhere)(lambda **_: lambda sample, rng: sample)


class Compose:
    """Applies transforms in order."""

    def __init__(self, transforms: Sequence[Config]) -> None:
        self.transforms = [TRANSFORMS.build(cfg) for cfg in transforms]

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        for transform in self.transforms:
            sample = transform(sample, rng)
        return sample


@TRANSFORMS.register_module()
class RandomFlip:
    """Mirrors left and right with probability `prob`."""

    def __init__(self, prob: float = 0.5, direction: str = "horizontal") -> None:
        if direction != "horizontal":
            raise DataError(f"RandomFlip: direction {direction!r}; only 'horizontal' is supported")
        self.prob = prob

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        if rng.random() >= self.prob:
            return sample
        image = sample["image"].transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        boxes = sample["boxes"].copy()
        boxes[:, [0, 2]] = image.width - boxes[:, [2, 0]]
        flipped = {**sample, "image": image, "boxes": boxes}
        if "masks" in sample:
            flipped["masks"] = sample["masks"][:, :, ::-1]
        return flipped


def resize_masks(masks: np.ndarray[Any, Any], size: tuple[int, int]) -> np.ndarray[Any, Any]:
    """Masks [N, H, W] to `size` = (width, height) by nearest, as OpenCV and MMDetection do."""
    height, width = masks.shape[1:]
    rows = np.arange(size[1]) * height // size[1]
    columns = np.arange(size[0]) * width // size[0]
    return np.asarray(masks[:, rows][:, :, columns])


def resize_sample(sample: Sample, size: tuple[int, int]) -> Sample:
    """Resizes to `size` = (width, height) with antialiased bilinear interpolation."""
    image = sample["image"]
    factor = (size[0] / image.width, size[1] / image.height)
    masks = {"masks": resize_masks(sample["masks"], size)} if "masks" in sample else {}
    return {
        **sample,
        **masks,
        "image": image.resize(size, Image.Resampling.BILINEAR),
        "boxes": sample["boxes"] * np.array([*factor, *factor], np.float32),
        "scale_factor": tuple(a * b for a, b in zip(sample["scale_factor"], factor, strict=True)),
    }


@TRANSFORMS.register_module()
class Resize:
    """To `scale` = (width, height): exactly, or with keep_ratio as large as fits.

    Whatever the `backend`, Pillow resizes, with antialiasing.
    """

    half = 0.5  # what is added to a side before it is rounded down

    def __init__(
        self, scale: tuple[int, int], keep_ratio: bool = False, backend: str = "pillow"
    ) -> None:
        self.scale, self.keep_ratio = (int(scale[0]), int(scale[1])), keep_ratio

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        return resize_sample(sample, self.output_size(sample["image"].size))

    def output_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """The (width, height) that an image of `size` = (width, height) is resized to."""
        if not self.keep_ratio:
            return self.scale
        return fit_size(size, min(self.scale), max(self.scale), self.half)


@TRANSFORMS.register_module()
class FixScaleResize(Resize):
    """Resize whose sides are rounded down."""

    half = 0.0


@TRANSFORMS.register_module()
class RandomChoiceResize:
    """Resize (or `resize_type` FixScaleResize) to one of `scales`."""

    def __init__(
        self,
        scales: Sequence[tuple[int, int]],
        keep_ratio: bool = False,
        resize_type: str = "Resize",
        **resize: Any,
    ) -> None:
        keep_ratio = resize.pop("resize_cfg", {}).get("keep_ratio", keep_ratio)
        kinds = {"Resize": Resize, "FixScaleResize": FixScaleResize}
        if resize_type not in kinds:
            raise DataError(f"RandomChoiceResize: resize_type is one of {', '.join(kinds)}")
        self.choices = [kinds[resize_type](scale, keep_ratio, **resize) for scale in scales]

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        return self.choices[rng.integers(len(self.choices))](sample, rng)


@TRANSFORMS.register_module()
class RandomChoice:
    """One of several pipelines, with equal probability unless `prob` says otherwise."""

    def __init__(
        self, transforms: Sequence[Sequence[Config]], prob: Sequence[float] | None = None
    ) -> None:
        self.pipelines = [Compose(each) for each in transforms]
        self.prob = prob

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        chosen = rng.choice(len(self.pipelines), p=self.prob)
        return self.pipelines[chosen](sample, rng)


@TRANSFORMS.register_module()
class RandomCrop:
    """Crops a random window; boxes are clipped to it, and objects outside it are removed.

    crop_size is (width, height) for 'absolute'; for 'absolute_range' both sides are drawn between
    its two numbers. Unless allow_negative_crop is set, a window that contains no object leaves the
    sample uncropped. With recompute_bbox boxes are drawn around the cropped masks.
    """

    def __init__(
        self,
        crop_size: tuple[int, int],
        crop_type: str = "absolute",
        allow_negative_crop: bool = False,
        recompute_bbox: bool = False,
    ) -> None:
        if crop_type not in ("absolute", "absolute_range"):
            raise DataError(f"RandomCrop: crop_type {crop_type!r}; use absolute or absolute_range")
        self.crop_size, self.crop_type = crop_size, crop_type
        self.allow_negative_crop = allow_negative_crop
        self.recompute_bbox = recompute_bbox

    def _window(self, image: Image.Image, rng: np.random.Generator) -> tuple[int, int, int, int]:
        width, height = self.crop_size
        if self.crop_type == "absolute_range":
            low, high = min(self.crop_size), max(self.crop_size)
            height = int(rng.integers(min(low, image.height), min(high, image.height) + 1))
            width = int(rng.integers(min(low, image.width), min(high, image.width) + 1))
        width, height = min(width, image.width), min(height, image.height)
        left = int(rng.integers(image.width - width + 1))
        top = int(rng.integers(image.height - height + 1))
        return left, top, left + width, top + height

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        window = self._window(sample["image"], rng)
        left, top, right, bottom = window
        boxes = sample["boxes"] - np.array([left, top, left, top], np.float32)
        size = np.array([right - left, bottom - top] * 2, np.float32)
        boxes = boxes.clip(0, size)
        kept = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
        if not kept.any() and not self.allow_negative_crop:
            return sample
        parts = {key: sample[key][kept] for key in ("labels", "crowd")}
        boxes = boxes[kept]
        if "masks" in sample:
            masks = sample["masks"][kept, top:bottom, left:right]
            parts["masks"] = masks
            if self.recompute_bbox:
                boxes = boxes_around(masks)
        return {**sample, **parts, "image": sample["image"].crop(window), "boxes": boxes}


@TRANSFORMS.register_module()
class RandomResize:
    """Resize to `scale` = (width, height) times a factor drawn from `ratio_range`.

    With two scales each side is drawn between theirs.
    """

    def __init__(
        self,
        scale: tuple[int, int] | Sequence[tuple[int, int]],
        ratio_range: tuple[float, float] = (1.0, 1.0),
        keep_ratio: bool = False,
        resize_type: str = "Resize",
    ) -> None:
        pair: list[Any] = [scale, scale] if isinstance(scale[0], int) else list(scale)
        if len(pair) != 2 or resize_type != "Resize":
            raise DataError(
                "RandomResize: scale is one or two (width, height), and resize_type 'Resize'"
            )
        first, second = pair
        self.low = [min(sides) for sides in zip(first, second, strict=True)]
        self.high = [max(sides) for sides in zip(first, second, strict=True)]
        self.ratio_range, self.keep_ratio = ratio_range, keep_ratio

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        factor = rng.uniform(*self.ratio_range)
        width, height = (
            max(1, int((low if low == high else rng.integers(low, high + 1)) * factor))
            for low, high in zip(self.low, self.high, strict=True)
        )
        return Resize((width, height), self.keep_ratio)(sample, rng)


@TRANSFORMS.register_module()
class FilterAnnotations:
    """Leaves out objects whose box, or mask with `by_mask`, is smaller than the minimum."""

    def __init__(
        self,
        min_gt_bbox_wh: tuple[float, float] = (1, 1),
        min_gt_mask_area: int = 1,
        by_box: bool = True,
        by_mask: bool = False,
        keep_empty: bool = True,
    ) -> None:
        self.sides, self.area = min_gt_bbox_wh, min_gt_mask_area
        self.by_box, self.by_mask = by_box, by_mask

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        sides = sample["boxes"][:, 2:] - sample["boxes"][:, :2]
        kept = np.ones(len(sides), bool)
        if self.by_box:
            kept &= (sides > np.array(self.sides)).all(1)
        if self.by_mask and "masks" in sample:
            kept &= sample["masks"].sum((1, 2)) >= self.area
        parts = ("boxes", "labels", "crowd", "masks")
        return {**sample, **{key: sample[key][kept] for key in parts if key in sample}}


def boxes_around(masks: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Boxes xyxy around masks [N, H, W], bool -> [N, 4], float32; zeros for an empty mask."""
    boxes: np.ndarray[Any, Any] = mask_boxes(torch.from_numpy(np.ascontiguousarray(masks))).numpy()
    return boxes
