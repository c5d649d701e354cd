"""Datasets, transforms and generators. Importing this room registers every dataset."""

from cupola.data import darcy, detection, digits, field_dataset, navier_stokes, text

__all__ = ["darcy", "detection", "digits", "field_dataset", "navier_stokes", "text"]
