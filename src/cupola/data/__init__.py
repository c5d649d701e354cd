"""Datasets, transforms and generators. Importing this room registers every dataset."""

from cupola.data import darcy, field_dataset, navier_stokes

__all__ = ["darcy", "field_dataset", "navier_stokes"]
