"""Datasets, transforms and generators. Importing this room registers every dataset."""

from cupola.data import (
    darcy,
    detection,
    digits,
    driving_scenes,
    field_dataset,
    navier_stokes,
    text,
)

__all__ = [
    "darcy",
    "detection",
    "digits",
    "driving_scenes",
    "field_dataset",
    "navier_stokes",
    "text",
]
