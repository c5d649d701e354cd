"""Checkpoints: read safely, and translated from the dialect that their keys belong to."""

from cupola.weights.adapter_names import rename_adapter
from cupola.weights.dialects import DIALECTS, Dialect
from cupola.weights.loading import LoadReport, load_weights, translate
from cupola.weights.reading import read_checkpoint
from cupola.weights.reshard import load_shard, reshard
from cupola.weights.sources import open_source

__all__ = [
    "DIALECTS",
    "Dialect",
    "LoadReport",
    "load_shard",
    "load_weights",
    "open_source",
    "read_checkpoint",
    "rename_adapter",
    "reshard",
    "translate",
]
