"""BLOOM (arXiv 2211.05100), on one process or split over many."""

from cupola.models.bloom.batching import Batcher, Token
from cupola.models.bloom.contexts import DenseCache
from cupola.models.bloom.model import BloomForCausalLM, BloomModel
from cupola.models.bloom.sampling import Sampling
from cupola.models.bloom.settings import BloomSettings

__all__ = [
    "Batcher",
    "BloomForCausalLM",
    "BloomModel",
    "BloomSettings",
    "DenseCache",
    "Sampling",
    "Token",
]
