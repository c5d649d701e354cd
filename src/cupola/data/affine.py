"""RandomAffine of MMDetection: rotation, scaling, shear and translation of an image.

Source: mmdet/datasets/transforms/transforms.py.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cupola.data.borders import Color, in_rgb, on_canvas
from cupola.data.crops import clipped, inside
from cupola.data.pipeline import Random, Sample, select
from cupola.data.pixels import as_image, size_of
from cupola.errors import DataError
from cupola.registry import TRANSFORMS

Matrix = NDArray[np.float64]  # [3, 3], on (x, y, 1)


@TRANSFORMS.register_module()
class RandomAffine:
    """Warps an image; the result is larger by twice `border` (width, height), which may be < 0.

    Angles are in degrees, translations in parts of the new size; border_val fills what the image
    does not cover. A box becomes the one around its warped corners; boxes outside are removed.
    Samples with masks are an error, as in the original.
    """

    def __init__(
        self,
        max_rotate_degree: float = 10.0,
        max_translate_ratio: float = 0.1,
        scaling_ratio_range: Sequence[float] = (0.5, 1.5),
        max_shear_degree: float = 2.0,
        border: Sequence[int] = (0, 0),
        border_val: Color = (114, 114, 114),
        bbox_clip_border: bool = True,
    ) -> None:
        low, high = scaling_ratio_range
        if not 0 < low <= high or not 0 <= max_translate_ratio <= 1:
            raise DataError(
                "RandomAffine: expected 0 < low <= high in scaling_ratio_range, and "
                f"max_translate_ratio in 0..1; got {scaling_ratio_range} and {max_translate_ratio}"
            )
        self.degrees, self.shear = max_rotate_degree, max_shear_degree
        self.translation, self.scaling = max_translate_ratio, (low, high)
        self.border, self.color, self.clip = border, in_rgb(border_val), bbox_clip_border

    def _matrix(self, width: int, height: int, rng: Random) -> Matrix:
        angle = math.radians(rng.uniform(-self.degrees, self.degrees))
        scale = rng.uniform(*self.scaling)
        x_shear, y_shear = np.radians(rng.uniform(-self.shear, self.shear, 2))
        x, y = rng.uniform(-self.translation, self.translation, 2) * (width, height)
        cos, sin = math.cos(angle), math.sin(angle)
        rotation = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
        shear = np.array([[1, math.tan(x_shear), 0], [math.tan(y_shear), 1, 0], [0, 0, 1]])
        shift = np.array([[1, 0, x], [0, 1, y], [0, 0, 1]])
        return shift @ shear @ rotation @ np.diag([scale, scale, 1.0])

    def __call__(self, sample: Sample, rng: Random) -> Sample:
        if "masks" in sample or "semantic" in sample:
            raise DataError("RandomAffine: takes boxes only, no masks")
        width, height = (
            max(1, side + 2 * more)
            for side, more in zip(size_of(sample["image"]), self.border, strict=True)
        )
        size, matrix = (width, height), self._matrix(width, height, rng)
        boxes = warp_boxes(sample["boxes"], matrix)
        boxes = clipped(boxes, size) if self.clip else boxes
        image = warp(sample, matrix, size, self.color)
        return select({**sample, "image": image, "boxes": boxes}, inside(boxes, size))


def warp_boxes(boxes: Any, matrix: Matrix) -> Any:
    """The boxes around the warped corners of boxes xyxy [N, 4], float32."""
    corners = boxes[:, [[0, 1], [2, 1], [0, 3], [2, 3]]].astype(np.float64)  # [N, 4, 2]
    moved = corners @ matrix[:2, :2].T + matrix[:2, 2]
    return np.concatenate((moved.min(1), moved.max(1)), 1).astype(np.float32)


def warp(
    sample: Sample, matrix: Matrix, size: tuple[int, int], color: Any, nearest: bool = False
) -> Any:
    """The image whose point matrix @ p shows the point p, of `size` (width, height).

    Bilinear (or nearest) between pixel centers at whole numbers, and the image's edges and `color`,
    as OpenCV's warpPerspective.
    """
    width, height = size_of(sample["image"])
    bare = {"image": sample["image"], "boxes": np.zeros((0, 4), np.float32)}
    # Pillow repeats the edge for half a pixel; with a frame of `color` it blends into it.
    framed = on_canvas(bare, (width + 2, height + 2), (1, 1), color)["image"]
    fill = tuple(np.broadcast_to(color, 3).tolist())
    planes = [
        _warped(plane, matrix, size, value, nearest)
        for plane, value in zip(np.moveaxis(np.asarray(framed), -1, 0), fill, strict=True)
    ]
    warped = np.stack(planes, -1)
    return as_image(np.rint(warped).astype(np.uint8) if isinstance(framed, Image.Image) else warped)


def warp_map(values: Any, matrix: Matrix, fill: int, nearest: bool) -> Any:
    """A map [H, W] moved as `warp` moves an image, at its own size: [H, W], float32."""
    height, width = values.shape
    framed = np.pad(np.asarray(values, np.float32), 1, constant_values=fill)
    return _warped(framed, matrix, (width, height), fill, nearest)


def _warped(
    framed: Any, matrix: Matrix, size: tuple[int, int], fill: float, nearest: bool
) -> NDArray[np.float32]:
    """A plane with a frame of one pixel, warped to `size`, float32.

    Of floats, since Pillow cuts off what whole numbers have after the point.
    """
    back = np.linalg.inv(matrix)
    # Pillow's centers are at halves: it samples at (a x + b y + c) of x + 1/2 and y + 1/2.
    offset = back[:2, 2] + 1.5 - back[:2, :2].sum(1) / 2
    data = [*back[0, :2], offset[0], *back[1, :2], offset[1]]
    how = Image.Resampling.NEAREST if nearest else Image.Resampling.BILINEAR
    plane = Image.fromarray(np.ascontiguousarray(framed, np.float32))
    moved = plane.transform(size, Image.Transform.AFFINE, data, how, fillcolor=fill)
    return np.asarray(moved, np.float32)
