"""Boxes, padded image batches, detections: what passes between the rooms."""

from cupola.structures import boxes, boxes3d
from cupola.structures.detections import Detections
from cupola.structures.detections3d import Detections3D
from cupola.structures.images import PaddedImages, pad_images

__all__ = ["Detections", "Detections3D", "PaddedImages", "boxes", "boxes3d", "pad_images"]
