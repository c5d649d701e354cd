"""Bundles: a model with all that it needs to answer, in one folder."""

from cupola.bundles.bundle import Bundle, shipped_names
from cupola.bundles.writing import write_bundle

__all__ = ["Bundle", "shipped_names", "write_bundle"]
