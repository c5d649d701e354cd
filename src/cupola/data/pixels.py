"""Images of a pipeline: PIL images in RGB, or float arrays where a transform left 0..255.

Letters: (H, W) image.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cupola.files.images import resize

Pixels = NDArray[Any]  # [H, W, 3], uint8 or float32
AnyImage = Image.Image | Pixels


def size_of(image: AnyImage) -> tuple[int, int]:
    """(width, height)."""
    if isinstance(image, Image.Image):
        return image.size
    return image.shape[1], image.shape[0]


def as_array(image: AnyImage) -> Pixels:
    """A copy of the pixels, [H, W, 3], uint8 or float32, RGB."""
    return np.array(image)


def as_image(pixels: Pixels) -> AnyImage:
    """uint8 pixels [H, W, 3] as a PIL image; float pixels stay as they are."""
    if pixels.dtype == np.uint8:
        return Image.fromarray(np.ascontiguousarray(pixels))
    return np.ascontiguousarray(pixels, np.float32)


def resized(
    image: AnyImage, size: tuple[int, int], backend: str = "cv2", interpolation: str = "bilinear"
) -> AnyImage:
    """The image at `size` = (width, height).

    backend: "pillow" is antialiased and has all of its filters, "cv2" is not, and has "bilinear"
    and "nearest".
    """
    if interpolation == "nearest":
        rows, columns = (
            nearest(old, new, backend)
            for old, new in zip(size_of(image)[::-1], size[::-1], strict=True)
        )
        return as_image(as_array(image)[rows][:, columns])
    if backend == "cv2":
        return as_image(resize(as_array(image), size[::-1], "opencv"))
    how = Image.Resampling[interpolation.upper()]
    if isinstance(image, Image.Image):
        return image.resize(size, how)
    planes = [Image.fromarray(np.ascontiguousarray(each)) for each in np.moveaxis(image, -1, 0)]
    return np.stack([np.asarray(each.resize(size, how)) for each in planes], -1)


def nearest(old: int, new: int, backend: str = "cv2") -> NDArray[np.int64]:
    """For each of `new` places the nearest of `old`: OpenCV goes by the places' left ends."""
    if backend == "pillow":
        places = Image.fromarray(np.arange(old, dtype=np.int32)[None])
        return np.asarray(places.resize((new, 1), Image.Resampling.NEAREST))[0].astype(np.int64)
    # In OpenCV's order of operations: products that should be whole may be a little less.
    step = 1.0 / (new / old)
    return np.floor(np.arange(new) * step).astype(np.int64).clip(0, old - 1)


def cropped(image: AnyImage, window: tuple[int, int, int, int]) -> AnyImage:
    """The part of the image in `window` = (left, top, right, bottom), which lies inside it."""
    if isinstance(image, Image.Image):
        return image.crop(window)
    left, top, right, bottom = window
    return image[top:bottom, left:right]


def mirrored(image: AnyImage, across: bool, down: bool) -> AnyImage:
    """Left and right exchanged (`across`), top and bottom exchanged (`down`)."""
    if isinstance(image, Image.Image):
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if across else image
        return image.transpose(Image.Transpose.FLIP_TOP_BOTTOM) if down else image
    return image[:: -1 if down else 1, :: -1 if across else 1]


def filled(size: tuple[int, int], value: Any, like: Pixels) -> Pixels:
    """Pixels of `value` (a number, or one for each channel of RGB), as `like` of another `size`.

    size is (width, height).
    """
    return np.full((size[1], size[0], 3), value, like.dtype)


def paste(canvas: Pixels, part: Pixels, place: tuple[int, int]) -> None:
    """Writes `part` [h, w, ...] into `canvas` [H, W, ...] with its corner at (left, top).

    What leaves the canvas is cut off.
    """
    left, top = place
    rows = slice(max(top, 0), min(top + part.shape[0], canvas.shape[0]))
    columns = slice(max(left, 0), min(left + part.shape[1], canvas.shape[1]))
    if rows.start < rows.stop and columns.start < columns.stop:
        canvas[rows, columns] = part[
            rows.start - top : rows.stop - top, columns.start - left : columns.stop - left
        ]
