"""Datasets, transforms and generators. Importing this package registers every dataset."""

from cupola.data import (
    coco,
    darcy,
    detection,
    digits,
    driving_scenes,
    driving_streets,
    field_dataset,
    glip_transforms,
    navier_stokes,
    nuscenes,
    panoptic,
    text,
    transforms,
    wrappers,
)

__all__ = [
    "coco",
    "darcy",
    "detection",
    "digits",
    "driving_scenes",
    "driving_streets",
    "field_dataset",
    "glip_transforms",
    "navier_stokes",
    "nuscenes",
    "panoptic",
    "text",
    "transforms",
    "wrappers",
]
