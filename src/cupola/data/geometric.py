"""Shears, translations and rotations by MMDetection's names.

An image, its boxes and its maps move by one matrix. Source:
mmdet/datasets/transforms/geometric.py of 3.x; those of 2.x are in `version2_geometric`.
"""

import math
from abc import ABC, abstractmethod

import numpy as np

from cupola.data.affine import Matrix, warp, warp_boxes, warp_map
from cupola.data.borders import Color, in_rgb
from cupola.data.crops import clipped
from cupola.data.levels import check_range, chosen_magnitude, level_of, probability
from cupola.data.pipeline import VOID, Random, Sample
from cupola.data.pixels import size_of
from cupola.errors import DataError
from cupola.registry import TRANSFORMS


class Geometric(ABC):
    """Moves a sample by `matrix`, with probability `prob`; what the image does not cover is filled.

    Masks are cut at half a pixel's cover, maps of classes take the nearest pixel.
    """

    def __init__(
        self, prob: float, img_border_value: Color, seg_ignore_label: int, interpolation: str
    ) -> None:
        name = type(self).__name__
        self.prob, self.void = probability(prob, f"{name}: prob"), seg_ignore_label
        self.color = in_rgb(img_border_value)
        if interpolation not in ("bilinear", "nearest"):
            raise DataError(
                f"{name}: interpolation {interpolation!r} is not available; use bilinear or nearest"
            )
        self.nearest = interpolation == "nearest"

    @abstractmethod
    def matrix(self, size: tuple[int, int], rng: Random) -> Matrix:
        """The matrix of an image of `size` (width, height)."""

    def __call__(self, sample: Sample, rng: Random) -> Sample:
        if rng.random() > self.prob:
            return sample
        size = size_of(sample["image"])
        matrix = self.matrix(size, rng)
        boxes = clipped(warp_boxes(sample["boxes"], matrix), size)
        found = {**sample, "boxes": boxes}
        found["image"] = warp(sample, matrix, size, self.color, self.nearest)
        if "masks" in sample:
            masks = [warp_map(each, matrix, 0, self.nearest) > 0.5 for each in sample["masks"]]
            found["masks"] = np.array(masks, bool).reshape(-1, *size[::-1])
        if "semantic" in sample:
            kind = sample["semantic"].dtype
            found["semantic"] = warp_map(sample["semantic"], matrix, self.void, True).astype(kind)
        return found


class _Levelled(Geometric):
    """The transforms of 3.x: `level` 0..10 lies between min_mag and max_mag; None draws.

    The magnitude is rounded to a tenth, and negative with probability 1 - reversal_prob.
    """

    most, default = 180.0, 30.0  # of the magnitude

    def __init__(
        self,
        prob: float = 1.0,
        level: int | None = None,
        min_mag: float = 0.0,
        max_mag: float | None = None,
        reversal_prob: float = 0.5,
        img_border_value: Color = 128,
        mask_border_value: int = 0,
        seg_ignore_label: int = VOID,
        interpolation: str = "bilinear",
    ) -> None:
        super().__init__(prob, img_border_value, seg_ignore_label, interpolation)
        name = type(self).__name__
        if mask_border_value:
            raise DataError(f"{name}: mask_border_value is not available but for 0")
        self.level = level_of(level, name)
        self.range = (min_mag, self.default if max_mag is None else max_mag)
        check_range(self.range, self.most, name)
        self.reversal_prob = probability(reversal_prob, f"{name}: reversal_prob")

    def magnitude(self, rng: Random) -> float:
        """The signed magnitude of one sample."""
        drawn = chosen_magnitude(self.level, self.range, rng)
        return -drawn if rng.random() > self.reversal_prob else drawn


@TRANSFORMS.register_module()
class ShearX(_Levelled):
    """Moves rows sideways; magnitudes are angles in degrees, of at most 90."""

    most = 90.0

    def matrix(self, size: tuple[int, int], rng: Random) -> Matrix:
        return shear_matrix(math.tan(math.radians(self.magnitude(rng))), "horizontal")


@TRANSFORMS.register_module()
class ShearY(ShearX):
    """Moves columns up and down; magnitudes are angles in degrees, of at most 90."""

    def matrix(self, size: tuple[int, int], rng: Random) -> Matrix:
        return shear_matrix(math.tan(math.radians(self.magnitude(rng))), "vertical")


@TRANSFORMS.register_module()
class Rotate(_Levelled):
    """Turns clockwise around the image's center; magnitudes are in degrees, of at most 180."""

    def matrix(self, size: tuple[int, int], rng: Random) -> Matrix:
        return rotation_matrix(self.magnitude(rng), center_of(size), 1.0)


@TRANSFORMS.register_module()
class TranslateX(_Levelled):
    """Moves to the right; magnitudes are parts of the width, rounded to whole pixels."""

    most, default = 1.0, 0.1

    def matrix(self, size: tuple[int, int], rng: Random) -> Matrix:
        return translation_matrix(int(size[0] * self.magnitude(rng)), "horizontal")


@TRANSFORMS.register_module()
class TranslateY(TranslateX):
    """Moves down; magnitudes are parts of the height, rounded to whole pixels."""

    def matrix(self, size: tuple[int, int], rng: Random) -> Matrix:
        return translation_matrix(int(size[1] * self.magnitude(rng)), "vertical")


def center_of(size: tuple[int, int]) -> tuple[float, float]:
    """The point (x, y) in the middle of an image of `size` (width, height)."""
    return (size[0] - 1) * 0.5, (size[1] - 1) * 0.5


def shear_matrix(magnitude: float, direction: str) -> Matrix:
    """[3, 3]: x + magnitude * y, or y + magnitude * x where `direction` is vertical."""
    matrix = np.eye(3)
    matrix[(0, 1) if direction == "horizontal" else (1, 0)] = np.float32(magnitude)
    return matrix


def translation_matrix(offset: float, direction: str) -> Matrix:
    """[3, 3]: `offset` pixels to the right, or down where `direction` is vertical."""
    matrix = np.eye(3)
    matrix[0 if direction == "horizontal" else 1, 2] = offset
    return matrix


def rotation_matrix(degrees: float, center: tuple[float, float], scale: float) -> Matrix:
    """[3, 3]: clockwise around `center` (x, y), then `scale` times as large."""
    angle = math.radians(degrees)
    cos, sin = scale * math.cos(angle), scale * math.sin(angle)
    x, y = center
    return np.array(
        [[cos, -sin, (1 - cos) * x + sin * y], [sin, cos, -sin * x + (1 - cos) * y], [0, 0, 1]]
    )
