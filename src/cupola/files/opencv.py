"""Bilinear resizing without antialiasing, equal to OpenCV's INTER_LINEAR to the bit.

MMDetection resizes with it, so a model's published accuracy belongs to these pixels. Source:
OpenCV 4, modules/imgproc/src/resize.cpp: centers of pixels are aligned; of 8 bits, weights have 11
bits, rows are interpolated first, and sums are shifted as its vector code shifts them.

Letters: (h, w) the image, (H, W) the result, C channels.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

BITS = 11  # of a weight
BLOCK = 64  # rows at a time, which stay in the processor's cache

Array = NDArray[Any]


def resize_linear(pixels: Array, size: tuple[int, int]) -> Array:
    """[h, w, C] -> [H, W, C] for `size` (H, W), uint8, float32 or float64 as the image is."""
    (h, w, channels), (height, width) = pixels.shape, size
    whole = pixels.dtype == np.uint8
    left, right, *weights = _taps(w, width, True, whole)
    near, far = ((each[:, None] * channels + np.arange(channels)).ravel() for each in (left, right))
    first, second = (each.repeat(channels) for each in weights)
    flat = pixels.reshape(h, -1)
    rows = np.empty((h, width * channels), np.int32 if whole else pixels.dtype)
    for start in range(0, h, BLOCK):
        part, found = flat[start : start + BLOCK], rows[start : start + BLOCK]
        np.multiply(part.take(near, 1), first, out=found)
        found += part.take(far, 1) * second
    if whole:
        rows >>= 4
    result = np.empty((height, width * channels), pixels.dtype)
    above, below, upper, lower = _taps(h, height, False, whole)
    for start in range(0, height, BLOCK):
        chosen = slice(start, start + BLOCK)
        top = rows[above[chosen]] * upper[chosen, None]
        bottom = rows[below[chosen]] * lower[chosen, None]
        result[chosen] = ((top >> 16) + (bottom >> 16) + 2) >> 2 if whole else top + bottom
    return result.reshape(height, width, channels)


def _taps(old: int, new: int, at_borders: bool, whole: bool) -> tuple[Array, ...]:
    """For each of `new` places the two of `old` that it lies between, and their weights.

    at_borders: whether the weight of a place outside is 1 of the nearest, as along the rows.
    """
    step = 1.0 / (new / old)
    place = ((np.arange(new) + 0.5) * step - 0.5).astype(np.float32)
    low = np.floor(place).astype(np.int64)
    part = place - low.astype(np.float32)
    if at_borders:
        part[(low < 0) | (low >= old - 1)] = 0
    weights: list[Array] = [np.float32(1) - part, part]
    if whole:
        weights = [np.rint(each * np.float32(2**BITS)).astype(np.int32) for each in weights]
    return low.clip(0, old - 1), (low + 1).clip(0, old - 1), *weights
