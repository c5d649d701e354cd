"""Boxes, padded picture batches, detections: what passes between the rooms."""

from cupola.structures import boxes
from cupola.structures.detections import Detections
from cupola.structures.images import PaddedImages, pad_images

__all__ = ["Detections", "PaddedImages", "boxes", "pad_images"]
