"""Datasets, transforms and generators. Importing this room registers every dataset."""

from cupola.data import darcy, navier_stokes

__all__ = ["darcy", "navier_stokes"]
