"""Random windows of an image, by MMDetection's names.

Source: mmdet/datasets/transforms/transforms.py; MinIoURandomCrop is SSD's (arXiv 1512.02325),
RandomCenterCropPad CornerNet's (arXiv 1808.01244). A window is (left, top, right, bottom).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from cupola.data.annotation_masks import boxes_around
from cupola.data.pipeline import MAPS, Random, Sample, select
from cupola.data.pixels import AnyImage, as_array, as_image, cropped, filled, size_of
from cupola.errors import DataError
from cupola.registry import TRANSFORMS

Window = tuple[int, int, int, int]
ATTEMPTS = 50  # windows drawn before other settings are
CROP_TYPES = ("absolute", "absolute_range", "relative", "relative_range")


def inside(boxes: Any, size: tuple[int, int]) -> Any:
    """Which boxes [N, 4] have a part in an image of `size` (width, height), [N] bool."""
    found: Any = (boxes[:, :2] < np.array(size)).all(1) & (boxes[:, 2:] > 0).all(1)
    return found


def clipped(boxes: Any, size: tuple[int, int]) -> Any:
    """Boxes [N, 4] within an image of `size` (width, height)."""
    return boxes.clip(0, np.array([*size, *size], np.float32))


def centered_in(boxes: Any, window: Window) -> Any:
    """Which boxes [N, 4] have their center inside a window, [N] bool."""
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    found: Any = (centers > np.array(window[:2])).all(1) & (centers < np.array(window[2:])).all(1)
    return found


def crop_sample(sample: Sample, window: Window, clip: bool = True) -> Sample:
    """The part of a sample in a window inside the image; no object is left out."""
    left, top, right, bottom = window
    boxes = sample["boxes"] - np.array([left, top, left, top], np.float32)
    maps = {k: sample[k][..., top:bottom, left:right] for k in MAPS if k in sample}
    boxes = clipped(boxes, (right - left, bottom - top)) if clip else boxes
    return {**sample, **maps, "image": cropped(sample["image"], window), "boxes": boxes}


@TRANSFORMS.register_module()
class RandomCrop:
    """Crops a random window; boxes are clipped to it, and objects outside it are removed.

    crop_size is (width, height) in pixels for 'absolute', as a part of the image for 'relative'.
    For 'absolute_range' both sides are drawn between its two numbers; for 'relative_range' height
    and width between its two numbers and the whole. Unless allow_negative_crop is set, a window
    that contains no object rejects the sample. With recompute_bbox boxes are drawn around the
    cropped masks.
    """

    def __init__(
        self,
        crop_size: tuple[float, float],
        crop_type: str = "absolute",
        allow_negative_crop: bool = False,
        recompute_bbox: bool = False,
        bbox_clip_border: bool = True,
    ) -> None:
        if crop_type not in CROP_TYPES:
            raise DataError(f"RandomCrop: crop_type {crop_type!r}; use {', '.join(CROP_TYPES)}")
        relative = crop_type.startswith("relative")
        if min(crop_size) <= 0 or (relative and max(crop_size) > 1):
            expected = "0..1 of the image" if relative else "positive numbers of pixels"
            raise DataError(f"RandomCrop: crop_size is {crop_size}; expected {expected}")
        self.crop_size, self.crop_type = crop_size, crop_type
        self.allow_negative_crop, self.clip = allow_negative_crop, bbox_clip_border
        self.recompute_bbox = recompute_bbox

    def _size(self, width: int, height: int, rng: Random) -> tuple[int, int]:
        """(width, height) of the window."""
        first, second = self.crop_size
        if self.crop_type == "absolute":
            return min(int(first), width), min(int(second), height)
        if self.crop_type == "absolute_range":
            low, high = int(min(first, second)), int(max(first, second))
            rows, columns = (
                int(rng.integers(min(low, side), min(high, side) + 1)) for side in (height, width)
            )
            return columns, rows
        if self.crop_type == "relative_range":  # the first number is that of the height
            second, first = np.array(self.crop_size) + rng.random(2) * (
                1 - np.array(self.crop_size)
            )
        return int(width * first + 0.5), int(height * second + 0.5)

    def _window(self, image: AnyImage, rng: Random) -> Window:
        width, height = size_of(image)
        across, down = (max(1, side) for side in self._size(width, height, rng))
        left, top = int(rng.integers(width - across + 1)), int(rng.integers(height - down + 1))
        return left, top, left + across, top + down

    def __call__(self, sample: Sample, rng: Random) -> Sample | None:
        found = crop_sample(sample, self._window(sample["image"], rng), self.clip)
        kept = inside(found["boxes"], size_of(found["image"]))
        if self.clip:
            kept &= (found["boxes"][:, 2:] > found["boxes"][:, :2]).all(1)
        if not kept.any() and not self.allow_negative_crop:
            return None
        found = select(found, kept)
        if self.recompute_bbox and "masks" in found:
            found["boxes"] = boxes_around(found["masks"])
        return found


@TRANSFORMS.register_module()
class MinIoURandomCrop:
    """A window that overlaps every box by an IoU that is drawn from `min_ious`, or the whole image.

    Its sides are at least `min_crop_size` of the image's, and its aspect ratio 0.5 to 2. Objects
    whose center is outside it are removed.
    """

    def __init__(
        self,
        min_ious: Sequence[float] = (0.1, 0.3, 0.5, 0.7, 0.9),
        min_crop_size: float = 0.3,
        bbox_clip_border: bool = True,
    ) -> None:
        self.modes = (1, *min_ious, 0)  # 1: no crop
        self.min_crop_size, self.clip = min_crop_size, bbox_clip_border

    def __call__(self, sample: Sample, rng: Random) -> Sample:
        while True:
            smallest = self.modes[rng.integers(len(self.modes))]
            if smallest == 1:
                return sample
            for _ in range(ATTEMPTS):
                window = self._window(*size_of(sample["image"]), rng)
                if window is not None and self._fits(sample["boxes"], window, smallest):
                    kept = centered_in(sample["boxes"], window)
                    return crop_sample(select(sample, kept), window, self.clip)

    def _window(self, width: int, height: int, rng: Random) -> Window | None:
        w = rng.uniform(self.min_crop_size * width, width)
        h = rng.uniform(self.min_crop_size * height, height)
        if not 0.5 <= h / w <= 2:
            return None
        # Between the rest and 1, not 0: the original calls numpy's uniform with one limit.
        left, top = (rest + rng.random() * (1 - rest) for rest in (width - w, height - h))
        window = (int(left), int(top), int(left + w), int(top + h))
        return window if window[0] < window[2] and window[1] < window[3] else None

    def _fits(self, boxes: Any, window: Window, smallest: float) -> bool:
        if not len(boxes):
            return True
        corners = np.array(window, np.float32)
        sides = np.minimum(boxes[:, 2:], corners[2:]) - np.maximum(boxes[:, :2], corners[:2])
        overlap = sides.clip(0).prod(1)
        areas = (boxes[:, 2:] - boxes[:, :2]).prod(1) + (corners[2:] - corners[:2]).prod()
        ious = overlap / np.maximum(areas - overlap, 1e-6)
        return bool(ious.min() >= smallest and centered_in(boxes, window).any())


@TRANSFORMS.register_module()
class RandomCenterCropPad:
    """A window of `crop_size` (width, height) times one of `ratios`, around a random point.

    The window may leave the image, where `mean` (RGB with to_rgb, else BGR) fills it; its center
    stays `border` pixels inside. With test_mode the whole image, in the middle of one whose sides
    are `side | n`, plus test_pad_add_pix, for test_pad_mode ("logical_or", n), or the next multiple
    of n, without it, for ("size_divisor", n); "shift" is then the (left, top) of the image in it.
    Samples with masks are an error, as in the original.
    """

    def __init__(
        self,
        crop_size: tuple[int, int] | None = None,
        ratios: Sequence[float] | None = (0.9, 1.0, 1.1),
        border: int | None = 128,
        mean: Sequence[float] = (0, 0, 0),
        std: Sequence[float] = (1, 1, 1),
        to_rgb: bool | None = None,
        test_mode: bool = False,
        test_pad_mode: Sequence[Any] | None = ("logical_or", 127),
        test_pad_add_pix: int = 0,
        bbox_clip_border: bool = True,
    ) -> None:
        if not test_mode and not (crop_size and ratios and border is not None):
            raise DataError("RandomCenterCropPad: needs crop_size, ratios and border in training")
        if test_mode and (not test_pad_mode or test_pad_mode[0] not in PADDED):
            raise DataError(f"RandomCenterCropPad: test_pad_mode begins with {' or '.join(PADDED)}")
        self.crop_size, self.ratios, self.border = crop_size, ratios, border
        self.mean = tuple(mean) if to_rgb else tuple(mean)[::-1]  # in RGB
        self.test_mode, self.mode, self.more = test_mode, test_pad_mode, test_pad_add_pix
        self.clip = bbox_clip_border

    def __call__(self, sample: Sample, rng: Random) -> Sample:
        if "masks" in sample or "semantic" in sample:
            raise DataError("RandomCenterCropPad: takes boxes only, no masks")
        width, height = sides = size_of(sample["image"])
        if self.test_mode:
            assert self.mode is not None
            more = self.more if self.mode[0] == "logical_or" else 0
            whole = [PADDED[self.mode[0]](s, self.mode[1]) + more for s in (width, height)]
            found = self._placed(sample, (width // 2, height // 2), whole)[0]
            corner = tuple(new // 2 - old // 2 for new, old in zip(whole, sides, strict=True))
            return {**found, "shift": corner}
        assert self.crop_size is not None and self.ratios is not None and self.border is not None
        across, down = (_margin(self.border, side) for side in (width, height))
        while True:
            ratio = self.ratios[int(rng.integers(len(self.ratios)))]
            size = tuple(int(side * ratio) for side in self.crop_size)
            for _ in range(ATTEMPTS):
                x = int(rng.integers(across, width - across))
                y = int(rng.integers(down, height - down))
                found, window = self._placed(sample, (x, y), size)
                kept = centered_in(sample["boxes"], window)
                if kept.any() or not len(kept):
                    found = select(found, kept)
                    return select(found, inside(found["boxes"], size_of(found["image"])))

    def _placed(self, sample: Sample, center: Any, size: Any) -> tuple[Sample, Window]:
        """The sample with `center` in the middle of a new image; and what of the old one it has."""
        pixels = as_array(sample["image"])
        height, width = pixels.shape[:2]
        (x, y), (w, h) = center, size
        left, top = max(0, x - w // 2), max(0, y - h // 2)
        right, bottom = min(x + w // 2, width), min(y + h // 2, height)
        shift_x, shift_y = w // 2 - x, h // 2 - y
        canvas = filled((w, h), self.mean, pixels)
        canvas[top + shift_y : bottom + shift_y, left + shift_x : right + shift_x] = pixels[
            top:bottom, left:right
        ]
        boxes = sample["boxes"] + np.array([shift_x, shift_y] * 2, np.float32)
        boxes = clipped(boxes, (w, h)) if self.clip and not self.test_mode else boxes
        found = {**sample, "image": as_image(canvas), "boxes": boxes}
        return found, (left, top, right, bottom)


PADDED = {
    "logical_or": lambda side, number: side | number,
    "size_divisor": lambda side, number: -(-side // number) * number,
}


def _margin(border: int, side: int) -> int:
    """`border`, or the largest border / 2^i that leaves a middle in an image with this side."""
    ratio = 2 * border / side
    halvings = np.ceil(np.log2(np.ceil(ratio))) + (ratio == int(ratio))
    return int(border // 2**halvings)
