"""Shear, Translate and Rotate of MMDetection 2.x, whose magnitudes are not those of 3.x.

Its Rotate is Version2Rotate here. Source: mmdet/datasets/pipelines/auto_augment.py of 2.x.
"""

from typing import Any

from cupola.data.affine import Matrix
from cupola.data.borders import Color
from cupola.data.geometric import (
    Geometric,
    center_of,
    rotation_matrix,
    shear_matrix,
    translation_matrix,
)
from cupola.data.levels import level_of, probability
from cupola.data.pipeline import VOID, Random, Sample, select
from cupola.errors import DataError
from cupola.registry import TRANSFORMS

DIRECTIONS = ("horizontal", "vertical")


class _Version2(Geometric):
    """The transforms of 2.x: `level` tenths of a largest magnitude.

    It is negative with probability random_negative_prob. Boxes of which a side of at most
    `least` pixels is left are removed.
    """

    least: float = 0

    def __init__(
        self,
        level: float,
        largest: float,
        prob: float = 0.5,
        random_negative_prob: float = 0.5,
        img_fill_val: Color = 128,
        seg_ignore_label: int = VOID,
        interpolation: str = "bilinear",
    ) -> None:
        super().__init__(prob, img_fill_val, seg_ignore_label, interpolation)
        name = type(self).__name__
        self.value = (level_of(level, name, whole=False) or 0) / 10 * largest
        self.negative = probability(random_negative_prob, f"{name}: random_negative_prob")

    def __call__(self, sample: Sample, rng: Random) -> Sample:
        found = super().__call__(sample, rng)
        if found is sample:
            return sample
        return select(found, (found["boxes"][:, 2:] - found["boxes"][:, :2] > self.least).all(1))

    def signed(self, value: float, rng: Random) -> float:
        return -value if rng.random() < self.negative else value


def _check_direction(direction: str, name: str) -> None:
    if direction not in DIRECTIONS:
        raise DataError(f"{name}: direction is {direction!r}; use {' or '.join(DIRECTIONS)}")


@TRANSFORMS.register_module()
class Shear(_Version2):
    """Moves rows sideways, or columns up and down, by `level` tenths of max_shear_magnitude."""

    def __init__(
        self,
        level: float,
        direction: str = "horizontal",
        max_shear_magnitude: float = 0.3,
        **options: Any,
    ) -> None:
        super().__init__(level, max_shear_magnitude, **options)
        _check_direction(direction, "Shear")
        self.direction = direction

    def matrix(self, size: tuple[int, int], rng: Random) -> Matrix:
        return shear_matrix(self.signed(self.value, rng), self.direction)


@TRANSFORMS.register_module()
class Translate(_Version2):
    """Moves by `level` tenths of max_translate_offset pixels, to the right or down.

    Boxes with a side of at most min_size pixels left are removed.
    """

    def __init__(
        self,
        level: float,
        direction: str = "horizontal",
        max_translate_offset: float = 250.0,
        min_size: float = 0,
        **options: Any,
    ) -> None:
        super().__init__(level, max_translate_offset, **options)
        _check_direction(direction, "Translate")
        self.direction, self.least = direction, min_size

    def matrix(self, size: tuple[int, int], rng: Random) -> Matrix:
        return translation_matrix(self.signed(int(self.value), rng), self.direction)


@TRANSFORMS.register_module()
class Version2Rotate(_Version2):
    """Turns clockwise by `level` tenths of max_rotate_angle degrees, and scales.

    The center is the image's or the point `center`, (x, y) in pixels.
    """

    def __init__(
        self,
        level: float,
        scale: float = 1,
        center: float | tuple[float, float] | None = None,
        max_rotate_angle: float = 30,
        **options: Any,
    ) -> None:
        super().__init__(level, max_rotate_angle, **options)
        self.scale = scale
        self.center = (center, center) if isinstance(center, int | float) else center

    def matrix(self, size: tuple[int, int], rng: Random) -> Matrix:
        angle = self.signed(self.value, rng)
        return rotation_matrix(angle, self.center or center_of(size), self.scale)
