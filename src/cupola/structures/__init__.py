"""Boxes, masks, padded image batches, detections and grids: the types that packages exchange."""

from cupola.structures import boxes, boxes3d, masks
from cupola.structures.detections import Detections
from cupola.structures.detections3d import Detections3D
from cupola.structures.images import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    PaddedImages,
    normalize,
    pad_images,
    pad_to_multiple,
)
from cupola.structures.panoptic import (
    PanopticSegmentation,
    PanopticTruth,
    Segment,
    TrueSegment,
)

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "Detections",
    "Detections3D",
    "PaddedImages",
    "PanopticSegmentation",
    "PanopticTruth",
    "Segment",
    "TrueSegment",
    "boxes",
    "boxes3d",
    "masks",
    "normalize",
    "pad_images",
    "pad_to_multiple",
]
