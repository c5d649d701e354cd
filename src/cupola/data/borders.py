"""Transforms that put an image on a larger canvas or move it, by MMDetection's names.

Colors of several numbers are BGR in MMDetection, whose images are; here they become RGB.
Source: mmdet/datasets/transforms/transforms.py and mmcv/transforms/processing.py.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cupola.data.crops import clipped
from cupola.data.pipeline import VOID, Pair, Random, Sample, select
from cupola.data.pixels import as_array, as_image, filled, paste, size_of
from cupola.errors import DataError
from cupola.registry import TRANSFORMS

Color = float | Sequence[float]
PADDING_MODES = ("constant", "edge", "reflect", "symmetric")


def in_rgb(color: Color) -> Any:
    """A gray level, or a color in BGR, as a color in RGB."""
    return color if isinstance(color, int | float) else tuple(color)[::-1]


def on_canvas(
    sample: Sample, size: tuple[int, int], place: tuple[int, int], color: Any, void: int = VOID
) -> Sample:
    """The sample on a canvas of `size` (width, height), its corner at `place` (left, top).

    What does not fit is cut off; boxes are moved and not clipped.
    """
    pixels = as_array(sample["image"])
    canvas = filled(size, color, pixels)
    paste(canvas, pixels, place)
    found = {**sample, "image": as_image(canvas)}
    if "masks" in sample:
        found["masks"] = masks_on_canvas(sample["masks"], size, place)
    if "semantic" in sample:
        found["semantic"] = np.full(size[::-1], void, sample["semantic"].dtype)
        paste(found["semantic"], sample["semantic"], place)
    found["boxes"] = sample["boxes"] + np.array([*place, *place], np.float32)
    return found


def masks_on_canvas(masks: Any, size: tuple[int, int], place: tuple[int, int]) -> Any:
    """Masks [N, h, w] on canvases of `size` (width, height), their corner at (left, top)."""
    found = np.zeros((len(masks), size[1], size[0]), bool)
    for canvas, mask in zip(found, masks, strict=True):
        paste(canvas, mask, place)
    return found


@TRANSFORMS.register_module()
class Pad:
    """Pads at the right and the bottom, to `size` (width, height), a square, or a multiple.

    pad_val: a gray level or color for the image, or a dict(img=..., seg=..., masks=0). The padding
    counts as a part of the image; a side that is longer than that of `size` stays. padding_mode
    'edge', 'reflect' and 'symmetric' repeat the image and its map of classes instead.
    """

    def __init__(
        self,
        size: tuple[int, int] | None = None,
        size_divisor: int | None = None,
        pad_to_square: bool = False,
        pad_val: Color | Mapping[str, Any] = 0,
        padding_mode: str = "constant",
    ) -> None:
        if (size is not None) + (size_divisor is not None or pad_to_square) != 1:
            raise DataError("Pad: needs one of size, size_divisor and pad_to_square")
        if padding_mode not in PADDING_MODES:
            raise DataError(
                f"Pad: padding_mode is {padding_mode!r}; use {', '.join(PADDING_MODES)}"
            )
        self.size, self.divisor, self.square = size, size_divisor or 1, pad_to_square
        colors: Mapping[str, Any] = pad_val if isinstance(pad_val, Mapping) else {"img": pad_val}
        self.color, self.void = in_rgb(colors.get("img", 0)), int(colors.get("seg", VOID))
        self.mode, self.covered = padding_mode, bool(colors.get("masks", 0))

    def __call__(self, sample: Sample, rng: Random) -> Sample:
        width, height = size_of(sample["image"])
        if self.size is not None:
            size = (max(width, self.size[0]), max(height, self.size[1]))
        else:
            sides = (max(width, height),) * 2 if self.square else (width, height)
            size = (-(-sides[0] // self.divisor) * self.divisor,
                    -(-sides[1] // self.divisor) * self.divisor)  # fmt: skip
        return sample if size == (width, height) else self._padded(sample, size)

    def _padded(self, sample: Sample, size: tuple[int, int]) -> Sample:
        found = on_canvas(sample, size, (0, 0), self.color, self.void)
        width, height = size_of(sample["image"])
        more = ((0, size[1] - height), (0, size[0] - width), (0, 0))
        if self.mode != "constant":
            mode: Any = self.mode
            found["image"] = as_image(np.pad(as_array(sample["image"]), more, mode))
            if "semantic" in sample:
                found["semantic"] = np.pad(sample["semantic"], more[:2], mode)
        if self.covered and "masks" in found:
            found["masks"][:, height:] = found["masks"][:, :, width:] = True
        return found


@TRANSFORMS.register_module()
class Expand:
    """With probability `prob` a canvas of `ratio_range` times the size, the image anywhere in it.

    `mean` fills it: RGB with to_rgb, else BGR.
    """

    def __init__(
        self,
        mean: Sequence[float] = (0, 0, 0),
        to_rgb: bool = True,
        ratio_range: Pair = (1, 4),
        seg_ignore_label: int | None = None,
        prob: float = 0.5,
    ) -> None:
        self.mean = tuple(mean) if to_rgb else tuple(mean)[::-1]
        self.ratio_range, self.prob = ratio_range, prob
        self.void = VOID if seg_ignore_label is None else seg_ignore_label

    def __call__(self, sample: Sample, rng: Random) -> Sample:
        if rng.random() > self.prob:
            return sample
        width, height = size_of(sample["image"])
        ratio = rng.uniform(*self.ratio_range)
        left = int(rng.uniform(0, width * ratio - width))
        top = int(rng.uniform(0, height * ratio - height))
        size = (int(width * ratio), int(height * ratio))
        return on_canvas(sample, size, (left, top), self.mean, self.void)


@TRANSFORMS.register_module()
class RandomShift:
    """With probability `prob` moves the image by -max_shift_px <= n < max_shift_px; black fills.

    Objects with a side of at most `filter_thr_px` left are removed; a shift that would remove all
    of them is not done. Masks move, too (the original's stay).
    """

    def __init__(self, prob: float = 0.5, max_shift_px: int = 32, filter_thr_px: int = 1) -> None:
        self.prob, self.most, self.least = prob, max_shift_px, int(filter_thr_px)

    def __call__(self, sample: Sample, rng: Random) -> Sample:
        if rng.random() >= self.prob:
            return sample
        place = tuple(int(each) for each in rng.integers(-self.most, self.most, 2))
        size = size_of(sample["image"])
        boxes = clipped(sample["boxes"] + np.array([*place, *place], np.float32), size)
        kept = (boxes[:, 2:] - boxes[:, :2] > self.least).all(1)
        if not kept.any():
            return sample
        found = on_canvas(sample, size, (place[0], place[1]), 0)
        return select({**found, "boxes": boxes}, kept)
