"""Transforms that cover parts of an image, by MMDetection's names.

Source: mmdet/datasets/transforms/transforms.py.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from cupola.data.borders import Color, in_rgb
from cupola.data.pipeline import MAPS, VOID, Random, Sample, select
from cupola.data.pixels import as_array, as_image
from cupola.errors import DataError
from cupola.registry import TRANSFORMS

Span = int | Sequence[int]


def _span(value: Any, what: str) -> tuple[Any, Any]:
    """A number, or the two ends of a range, as these ends."""
    low, high = value if isinstance(value, list | tuple) else (value, value)
    if not 0 <= low <= high:
        raise DataError(f"{what} is {value!r}; expected a number, or a range (low, high)")
    return low, high


@TRANSFORMS.register_module()
class CutOut:
    """`n_holes` (or a number between two) rectangles of color `fill_in`; objects stay.

    The size of each is one of `cutout_shape`, (width, height) in pixels, or of `cutout_ratio`, in
    parts of the image; its left top corner is anywhere in the image.
    """

    def __init__(
        self,
        n_holes: Span,
        cutout_shape: Any = None,
        cutout_ratio: Any = None,
        fill_in: Color = (0, 0, 0),
    ) -> None:
        if (cutout_shape is None) == (cutout_ratio is None):
            raise DataError("CutOut: needs either cutout_shape or cutout_ratio")
        self.count, self.color = _span(n_holes, "CutOut: n_holes"), in_rgb(fill_in)
        self.relative = cutout_shape is None
        sizes = cutout_ratio if self.relative else cutout_shape
        self.sizes = list(sizes) if isinstance(sizes[0], list | tuple) else [sizes]

    def __call__(self, sample: Sample, rng: Random) -> Sample:
        pixels = as_array(sample["image"])
        height, width = pixels.shape[:2]
        for _ in range(rng.integers(self.count[0], self.count[1] + 1)):
            left, top = int(rng.integers(width)), int(rng.integers(height))
            across, down = self.sizes[rng.integers(len(self.sizes))]
            if self.relative:
                across, down = int(across * width), int(down * height)
            pixels[top : top + down, left : left + across] = self.color
        return {**sample, "image": as_image(pixels)}


@TRANSFORMS.register_module()
class RandomErasing:
    """`n_patches` rectangles of `ratio` times the image's sides are covered, with their masks.

    Both may be ranges. Patches are as high as wide, in parts of the image, with `squared`. Objects
    of whose box `bbox_erased_thr` or more is covered are removed.
    """

    def __init__(
        self,
        n_patches: Span,
        ratio: float | Sequence[float],
        squared: bool = True,
        bbox_erased_thr: float = 0.9,
        img_border_value: Color = 128,
        mask_border_value: int = 0,
        seg_ignore_label: int = VOID,
    ) -> None:
        self.count = _span(n_patches, "RandomErasing: n_patches")
        self.ratio = _span(ratio, "RandomErasing: ratio")
        if self.ratio[1] > 1:
            raise DataError(f"RandomErasing: ratio is {ratio!r}; expected 0..1 of the image")
        self.squared, self.limit = squared, bbox_erased_thr
        self.color, self.mask_value = in_rgb(img_border_value), bool(mask_border_value)
        self.void = seg_ignore_label

    def _patches(self, width: int, height: int, rng: Random) -> Any:
        patches = []
        for _ in range(rng.integers(self.count[0], self.count[1] + 1)):
            down = across = rng.uniform(*self.ratio)
            if not self.squared:
                across = rng.uniform(*self.ratio)
            h, w = int(height * down), int(width * across)
            left = int(rng.integers(max(1, width - w)))
            top = int(rng.integers(max(1, height - h)))
            patches.append((left, top, left + w, top + h))
        return np.array(patches, np.float32).reshape(-1, 4)

    def __call__(self, sample: Sample, rng: Random) -> Sample:
        pixels = as_array(sample["image"])
        patches = self._patches(pixels.shape[1], pixels.shape[0], rng)
        found: Sample = {k: sample[k].copy() for k in MAPS if k in sample}
        for left, top, right, bottom in patches.astype(int):
            pixels[top:bottom, left:right] = self.color
            for key, value in (("masks", self.mask_value), ("semantic", self.void)):
                if key in found:
                    found[key][..., top:bottom, left:right] = value
        boxes = sample["boxes"]
        low = np.maximum(boxes[:, None, :2], patches[:, :2])
        high = np.minimum(boxes[:, None, 2:], patches[:, 2:])
        covered = (high - low).clip(0).prod(-1).sum(-1)  # [N]
        kept = covered / ((boxes[:, 2:] - boxes[:, :2]).prod(1) + 1e-7) < self.limit
        return select({**sample, **found, "image": as_image(pixels)}, kept)
