"""BLOOM (arXiv 2211.05100), on one process or split over many."""

from cupola.models.bloom.model import BloomForCausalLM, BloomModel
from cupola.models.bloom.settings import BloomSettings

__all__ = ["BloomForCausalLM", "BloomModel", "BloomSettings"]
