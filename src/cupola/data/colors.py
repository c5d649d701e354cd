"""Transforms of an image's colors, by MMDetection's names.

Source: mmdet/datasets/transforms/transforms.py; the distortion is SSD's (arXiv 1512.02325).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from cupola.data.photometric import PhotometricDistortion, distort
from cupola.data.pipeline import Random, Sample
from cupola.data.pixels import as_array, as_image
from cupola.registry import TRANSFORMS

PLACES = 12  # binary, of the factors
ROUNDING = 1 << (PLACES - 1)
_LEVELS = np.maximum(np.arange(256), 1)
HUE_FACTORS = np.rint((30 << PLACES) / _LEVELS).astype(np.int32) * (np.arange(256) > 0)
SATURATION_FACTORS = np.rint((255 << PLACES) / _LEVELS).astype(np.int32) * (np.arange(256) > 0)
# Which of (highest, lowest, falling, rising) red, green and blue are in the 6 sectors of the hue.
SECTORS = np.array(((0, 3, 1), (2, 0, 1), (1, 0, 3), (1, 2, 0), (3, 1, 0), (0, 1, 2)))


@TRANSFORMS.register_module()
class PhotoMetricDistortion:
    """Brightness, contrast, saturation, hue and the order of channels, each with probability 1/2.

    brightness_delta is in gray levels of 0..255, hue_delta in degrees. The image becomes floats,
    which may leave 0..255.
    """

    def __init__(
        self,
        brightness_delta: float = 32,
        contrast_range: Sequence[float] = (0.5, 1.5),
        saturation_range: Sequence[float] = (0.5, 1.5),
        hue_delta: float = 18,
    ) -> None:
        self.settings = PhotometricDistortion(
            brightness_delta, contrast_range, saturation_range, hue_delta
        )

    def __call__(self, sample: Sample, rng: Random) -> Sample:
        pixels = as_array(sample["image"]).astype(np.float32)
        distorted = distort(pixels, self.settings.draw(rng), limited=True)
        return {**sample, "image": as_image(distorted)}


@TRANSFORMS.register_module()
class YOLOXHSVRandomAug:
    """Adds random whole numbers to hue, saturation and value, each with probability 1/2.

    As in OpenCV's images of 8 bits, hue is in steps of 2 degrees, the others are 0..255.
    """

    def __init__(
        self, hue_delta: int = 5, saturation_delta: int = 30, value_delta: int = 30
    ) -> None:
        self.deltas = np.array([hue_delta, saturation_delta, value_delta])

    def __call__(self, sample: Sample, rng: Random) -> Sample:
        gains = rng.uniform(-1, 1, 3) * self.deltas * rng.integers(0, 2, 3)
        hue, saturation, value = (int(each) for each in gains)
        if not (hue or saturation or value):
            return sample
        pixels = as_array(sample["image"])
        changed = shift_hsv(pixels.clip(0, 255).astype(np.uint8), hue, saturation, value)
        return {**sample, "image": as_image(changed.astype(pixels.dtype))}


def shift_hsv(rgb: Any, hue: int, saturation: int, value: int) -> Any:
    """RGB pixels [H, W, 3], uint8, with their HSV moved: hue in 2 degrees, the others 0..255.

    Hue wraps, the others are cut off at 0 and 255. HSV is rounded to whole numbers, as OpenCV does
    it for images of 8 bits: by products of 12 binary places.
    """
    whole = rgb.astype(np.int32)
    V, low = whole.max(-1), whole.min(-1)
    chroma = V - low
    red, green, blue = np.moveaxis(whole, -1, 0)
    turn = np.select(
        [red == V, green == V],
        [green - blue, blue - red + 2 * chroma],
        red - green + 4 * chroma,
    )  # in units of 60 degrees times the chroma
    H = (turn * HUE_FACTORS[chroma] + ROUNDING) >> PLACES
    S = (chroma * SATURATION_FACTORS[V] + ROUNDING) >> PLACES
    H = (H + hue) % 180
    S, V = (S + saturation).clip(0, 255), (V + value).clip(0, 255)
    return _to_rgb(H, S, V)


def _to_rgb(H: Any, S: Any, V: Any) -> Any:
    """[H, W, 3], uint8: in float32 and rounded down, as OpenCV's vector code does it."""
    turn, s, v = (
        each.astype(np.float32) * np.float32(scale)
        for each, scale in ((H, 6 / 180), (S, 1 / 255), (V, 1 / 255))
    )
    sector = np.floor(turn)
    part = turn - sector
    levels = np.stack((v, v * (1 - s), v * (1 - s * part), v * (1 - s * (1 - part))), -1)
    chosen = np.take_along_axis(levels, SECTORS[sector.astype(np.int64) % 6], -1)
    return (chosen * np.float32(255)).clip(0, 255).astype(np.uint8)
