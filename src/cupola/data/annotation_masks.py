"""The masks of COCO annotations: polygons and run-length encodings -> bitmaps."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cupola.errors import DataError
from cupola.structures.masks import MAX_CELLS, decode_rle, mask_boxes

Bitmap = NDArray[np.bool_]
BEYOND = 4  # polygons may leave the image by so many times its longer side
MOST_CELLS = 2**31  # of the masks of one image: 2 GB
EXPECTED = "expected polygons [[x, y, ...], ...] or an RLE"


def check_masks(count: int, size: tuple[int, int], where: str) -> None:
    """Raise DataError if `count` masks of an image of `size` (height, width) take too much."""
    height, width = size
    if count * height * width > MOST_CELLS:
        raise DataError(
            f"{where}: {count} masks of {height} x {width} pixels are more than {MOST_CELLS} bytes"
        )


def mask_of(entry: Mapping[str, Any], size: tuple[int, int], where: str) -> Bitmap | None:
    """The mask of an annotation in an image of `size` (height, width): [H, W], bool.

    None where the annotation has no segmentation, or only polygons of less than three points, as
    MMDetection ignores them. Polygons are filled by pycocotools. DataError names `where`.
    """
    segmentation = entry.get("segmentation")
    if segmentation is None or segmentation == []:
        return None
    if isinstance(segmentation, Mapping):
        return _from_rle(segmentation, size, where)
    if not isinstance(segmentation, Sequence) or isinstance(segmentation, str):
        raise DataError(f"{where}: segmentation is {segmentation!r:.60}; {EXPECTED}")
    polygons = [_polygon(each, size, where) for each in segmentation]
    polygons = [each for each in polygons if len(each) >= 6]
    if not polygons:
        return None
    if size[0] * size[1] > MAX_CELLS:
        raise DataError(f"{where}: its image has {size[0]} x {size[1]} pixels, too many for a mask")
    from pycocotools import mask as coco_mask

    return decode_rle(coco_mask.merge(coco_mask.frPyObjects(polygons, *size)))


def _from_rle(rle: Mapping[str, Any], size: tuple[int, int], where: str) -> Bitmap:
    try:
        mask = decode_rle(rle)
    except ValueError as error:
        raise DataError(f"{where}: segmentation: {error}") from None
    if mask.shape != size:
        height, width = mask.shape
        raise DataError(
            f"{where}: segmentation is of {height} x {width} pixels, the image of "
            f"{size[0]} x {size[1]}"
        )
    return mask


def _polygon(points: Any, size: tuple[int, int], where: str) -> list[float]:
    limit = (1 + BEYOND) * max(size)
    if not isinstance(points, Sequence) or isinstance(points, str) or len(points) % 2:
        raise DataError(f"{where}: a polygon is {points!r:.60}; expected [x, y, x, y, ...]")
    for value in points:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not abs(value) <= limit:  # NaN is not
            raise DataError(f"{where}: a polygon holds {value!r:.40}; expected pixels of the image")
    return [float(value) for value in points]


def boxes_around(masks: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Boxes xyxy around masks [N, H, W], bool -> [N, 4], float32; zeros for an empty mask."""
    boxes: np.ndarray[Any, Any] = mask_boxes(torch.from_numpy(np.ascontiguousarray(masks))).numpy()
    return boxes
