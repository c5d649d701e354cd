"""Checkpoints: read safely, translated from the dialect that their keys speak."""

from cupola.weights.dialects import DIALECTS, Dialect
from cupola.weights.loading import LoadReport, load_weights, translate
from cupola.weights.reading import read_checkpoint

__all__ = ["DIALECTS", "Dialect", "LoadReport", "load_weights", "read_checkpoint", "translate"]
