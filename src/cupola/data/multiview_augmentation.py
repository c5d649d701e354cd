"""Random crops of all cameras' images and random motions of the scene, with their matrices.

Sources: ResizeCropFlipImage and GlobalRotScaleTransImage of PETR, ResizeCropFlipRotImage of
StreamPETR (transform_3d.py). Unlike theirs, the matrices contain the exact factors of the resized
images, which have whole numbers of pixels, and translations move the cameras of PETR too.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cupola.errors import DataError

Array = NDArray[np.float64]
Pair = tuple[float, float]


@dataclass(frozen=True)
class Crop:
    """A resize to `resized` (width, height), a window of `final` at (left, top), flip, rotation.

    Positive degrees turn the image counterclockwise about its center.
    """

    resized: tuple[int, int]
    left: int
    top: int
    final: tuple[int, int]
    flip: bool = False
    degrees: float = 0.0

    def __call__(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """RGB [H, W, 3] -> [h, w, 3]; what lies outside of the image is black."""
        width, height = self.final
        window = (self.left, self.top, self.left + width, self.top + height)
        made = Image.fromarray(image).resize(self.resized, Image.Resampling.BICUBIC).crop(window)
        if self.flip:
            made = made.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return np.asarray(made.rotate(self.degrees) if self.degrees else made)

    def matrix(self, size: tuple[int, int]) -> Array:
        """[4, 4]: pixels times depth of the image of `size` (width, height) -> of the result."""
        width, height = self.final
        made = np.diag([self.resized[0] / size[0], self.resized[1] / size[1], 1.0])
        made = np.array([[1, 0, -self.left], [0, 1, -self.top], [0, 0, 1.0]]) @ made
        if self.flip:
            made = np.array([[-1, 0, width], [0, 1, 0], [0, 0, 1.0]]) @ made
        cos, sin = math.cos(math.radians(self.degrees)), math.sin(math.radians(self.degrees))
        turn, center = np.array([[cos, sin], [-sin, cos]]), np.array([width, height]) / 2
        about = np.eye(3)
        about[:2, :2], about[:2, 2] = turn, center - turn @ center
        whole = np.eye(4)
        whole[:3, :3] = about @ made
        return whole


@dataclass(frozen=True)
class RandomCrop:
    """`final` and `full` are (height, width), `full` that of the images before.

    resize: range of factors. bottom: range of the share that is cut off below. rotation: range of
    degrees. In test mode (`training` False) the whole width or height is kept, the middle of the
    width and the lower part of the height.
    """

    final: tuple[int, int]
    full: tuple[int, int] = (900, 1600)
    resize: Pair = (1.0, 1.0)
    bottom: Pair = (0.0, 0.0)
    rotation: Pair = (0.0, 0.0)
    flip: bool = False
    training: bool = True

    @classmethod
    def from_config(cls, settings: Mapping[str, Any], training: bool) -> "RandomCrop":
        """From a published `data_aug_conf`; DataError if final_dim is missing."""
        if len(settings.get("final_dim", ())) != 2:
            raise DataError(
                "pipeline: data_aug_conf needs final_dim, (height, width) of the images; got "
                f"{sorted(settings)}"
            )
        height, width = settings["final_dim"]
        return cls(
            (int(height), int(width)),
            (int(settings.get("H", 900)), int(settings.get("W", 1600))),
            resize=_range(settings, "resize_lim", 1.0),
            bottom=_range(settings, "bot_pct_lim", 0.0),
            rotation=_range(settings, "rot_lim", 0.0),
            flip=bool(settings.get("rand_flip")),
            training=training,
        )

    def draw(self, rng: np.random.Generator) -> Crop:
        """The crop of all cameras of a sample."""
        (height, width), (H, W) = self.final, self.full
        factor = rng.uniform(*self.resize) if self.training else max(height / H, width / W)
        resized = (int(W * factor), int(H * factor))
        spare = max(0, resized[0] - width)
        if not self.training:
            top = int((1 - sum(self.bottom) / 2) * resized[1]) - height
            return Crop(resized, spare // 2, top, (width, height))
        top = int((1 - rng.uniform(*self.bottom)) * resized[1]) - height
        left = int(rng.uniform(0, spare))
        flip = self.flip and bool(rng.integers(2))
        return Crop(resized, left, top, (width, height), flip, float(rng.uniform(*self.rotation)))


def _range(settings: Mapping[str, Any], key: str, default: float) -> Pair:
    low, high = settings.get(key) or (default, default)
    return float(low), float(high)


@dataclass(frozen=True)
class SceneMotion:
    """A rotation about the vertical axis in radians, a scale, then a shift [3] in meters."""

    yaw: float
    scale: float
    shift: Array

    def matrix(self) -> Array:
        """[4, 4]: points before -> points after."""
        cos, sin = math.cos(self.yaw), math.sin(self.yaw)
        made = np.eye(4)
        made[:3, :3] = self.scale * np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
        made[:3, 3] = self.shift
        return made

    def boxes(self, boxes: NDArray[np.float32]) -> NDArray[np.float32]:
        """Boxes [M, 9] (center, sides, yaw, velocity) after the motion; z is scaled with them."""
        turn = self.matrix()[:3, :3]
        moved = boxes.astype(np.float64)
        moved[:, :3] = boxes[:, :3] @ turn.T + self.shift
        moved[:, 3:6] *= self.scale
        moved[:, 6] += self.yaw
        moved[:, 7:9] = boxes[:, 7:9] @ turn[:2, :2].T
        return moved.astype(np.float32)


@dataclass(frozen=True)
class RandomSceneMotion:
    """Ranges of the rotation in radians and of the scale; standard deviations of the shift."""

    rotation: Pair = (-0.3925, 0.3925)
    scale: Pair = (0.95, 1.05)
    shift: Sequence[float] = (0.0, 0.0, 0.0)

    def draw(self, rng: np.random.Generator) -> SceneMotion:
        """The motion of one sample."""
        yaw, scale = rng.uniform(*self.rotation), rng.uniform(*self.scale)
        return SceneMotion(float(yaw), float(scale), rng.normal(0, np.asarray(self.shift, float)))
