"""AutoAugment's transforms of an image's colors, by MMDetection's names.

Pixels are whole numbers of 0..255. Sources: mmdet/datasets/transforms/colorspace.py,
mmcv/image/photometric.py.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cupola.data.levels import check_range, chosen_magnitude, level_of, probability
from cupola.data.pipeline import Pair, Random, Sample
from cupola.data.pixels import as_array, as_image
from cupola.errors import DataError
from cupola.registry import TRANSFORMS

Pixels = NDArray[np.uint8]  # [H, W, 3], RGB
GRAY = np.array([9798, 19235, 3735])  # parts of red, green and blue, in 2 ** 15
SMOOTH = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]])  # of 13


@TRANSFORMS.register_module()
class ColorTransform:
    """The base of the transforms of colors; by itself it changes nothing.

    With probability `prob` a magnitude is taken: at `level` 0..10 between min_mag and max_mag
    (None draws it), rounded to a tenth; or `magnitude`, as it is.
    """

    most: float = math.inf  # of the magnitude
    ends: Pair = (0.1, 1.9)

    def __init__(
        self,
        prob: float = 1.0,
        level: int | None = None,
        min_mag: float | None = None,
        max_mag: float | None = None,
        magnitude: float | None = None,
    ) -> None:
        name = type(self).__name__
        self.prob, self.level = probability(prob, f"{name}: prob"), level_of(level, name)
        low, high = self.ends
        self.range = (low if min_mag is None else min_mag, high if max_mag is None else max_mag)
        check_range(self.range, self.most, name)
        self.magnitude = magnitude

    def __call__(self, sample: Sample, rng: Random) -> Sample:
        if rng.random() > self.prob:
            return sample
        magnitude = self.magnitude
        if magnitude is None:
            magnitude = chosen_magnitude(self.level, self.range, rng)
        pixels = as_array(sample["image"])
        if pixels.dtype != np.uint8:
            raise DataError(
                f"{type(self).__name__}: takes pixels of 8 bits; put it before the transforms that "
                "make them floats, and leave out to_float32"
            )
        return {**sample, "image": as_image(self.changed(pixels, magnitude))}

    def changed(self, pixels: Pixels, magnitude: float) -> Pixels:
        """The new pixels, [H, W, 3], RGB."""
        return pixels


class _Enhancement(ColorTransform):
    """Magnitude 1 leaves the image, 0 makes it plain; at most 2."""

    most = 2.0


@TRANSFORMS.register_module()
class Color(_Enhancement):
    """Blends with the gray image."""

    def changed(self, pixels: Pixels, magnitude: float) -> Pixels:
        return np.rint(blend(pixels, gray(pixels)[..., None], magnitude)).astype(np.uint8)


@TRANSFORMS.register_module()
class Brightness(_Enhancement):
    """Blends with black."""

    def changed(self, pixels: Pixels, magnitude: float) -> Pixels:
        return blend(pixels, np.zeros_like(pixels), magnitude).astype(np.uint8)


@TRANSFORMS.register_module()
class Contrast(_Enhancement):
    """Blends with the mean of the gray image."""

    def changed(self, pixels: Pixels, magnitude: float) -> Pixels:
        levels = gray(pixels)
        mean = round(levels.sum() / levels.size)
        return blend(pixels, np.full_like(pixels, mean), magnitude).astype(np.uint8)


@TRANSFORMS.register_module()
class Sharpness(_Enhancement):
    """Blends with the image smoothed over 3 x 3 pixels."""

    def changed(self, pixels: Pixels, magnitude: float) -> Pixels:
        height, width = pixels.shape[:2]
        modes: Any = "reflect" if min(height, width) > 1 else "edge"
        around = np.pad(pixels.astype(np.int32), ((1, 1), (1, 1), (0, 0)), modes)
        total = sum(
            SMOOTH[i, j] * around[i : i + height, j : j + width] for i in range(3) for j in range(3)
        )
        return blend(pixels, np.rint(total / 13), magnitude).astype(np.uint8)


@TRANSFORMS.register_module()
class Solarize(ColorTransform):
    """Inverts values of at least the magnitude, of at most 256."""

    most, ends = 256.0, (0.0, 256.0)

    def changed(self, pixels: Pixels, magnitude: float) -> Pixels:
        return np.where(pixels < magnitude, pixels, 255 - pixels)


@TRANSFORMS.register_module()
class SolarizeAdd(ColorTransform):
    """Adds the magnitude, of at most 110, to values below 128."""

    most, ends = 110.0, (0.0, 110.0)

    def changed(self, pixels: Pixels, magnitude: float) -> Pixels:
        return np.where(pixels < 128, np.minimum(pixels + magnitude, 255), pixels).astype(np.uint8)


@TRANSFORMS.register_module()
class Posterize(ColorTransform):
    """Keeps as many of the 8 bits as the magnitude, rounded up, says."""

    most, ends = 8.0, (0.0, 4.0)

    def changed(self, pixels: Pixels, magnitude: float) -> Pixels:
        return pixels & np.uint8(256 - 2 ** (8 - math.ceil(magnitude)))


@TRANSFORMS.register_module()
class Equalize(ColorTransform):
    """Spreads each channel's values evenly; the level has no effect."""

    def changed(self, pixels: Pixels, magnitude: float) -> Pixels:
        return np.stack([_equalized(pixels[..., k]) for k in range(3)], -1)


@TRANSFORMS.register_module()
class AutoContrast(ColorTransform):
    """Stretches each channel's values to 0..255; the level has no effect."""

    def changed(self, pixels: Pixels, magnitude: float) -> Pixels:
        return np.stack([_stretched(pixels[..., k]) for k in range(3)], -1)


@TRANSFORMS.register_module()
class Invert(ColorTransform):
    """255 minus every value; the level has no effect."""

    def changed(self, pixels: Pixels, magnitude: float) -> Pixels:
        return 255 - pixels


def gray(pixels: Pixels) -> NDArray[np.int64]:
    """The gray levels [H, W] of RGB pixels, rounded as OpenCV's."""
    levels: NDArray[np.int64] = (pixels @ GRAY + (1 << 14)) >> 15
    return levels


def blend(pixels: Any, plain: Any, factor: float) -> NDArray[np.float32]:
    """factor * pixels + (1 - factor) * plain, cut to 0..255.

    The first product is exact, the second is rounded to float32, and the sum again, as by a fused
    multiplication and addition: so that what is cut off after it is the same as in OpenCV.
    """
    first = np.asarray(pixels, np.float64) * np.float32(factor)
    second = np.asarray(plain, np.float32) * np.float32(1 - factor)
    return (first + second).astype(np.float32).clip(0, 255)


def _equalized(channel: Pixels) -> Pixels:
    counts = np.bincount(channel.ravel(), minlength=256)
    step = (counts.sum() - counts[counts > 0][-1]) // 255
    if not step:
        return channel
    table = (np.cumsum(counts) + step // 2) // step
    table = np.concatenate(([0], table[:-1])).clip(0, 255).astype(np.uint8)
    return np.asarray(table[channel])


def _stretched(channel: Pixels) -> Pixels:
    low, high = int(channel.min()), int(channel.max())
    if low >= high:
        return channel
    scale = 255.0 / (high - low)
    table = (np.arange(256) * scale - low * scale).clip(0, 255).astype(np.uint8)
    return np.asarray(table[channel])
