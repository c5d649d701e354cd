"""BLOOM (arXiv 2211.05100), on one process or split over many."""

from cupola.generation.dense_attention import DenseCache
from cupola.generation.sampling import Sampling
from cupola.generation.scheduler import Batcher, Token
from cupola.models.bloom.model import BloomForCausalLM, BloomModel
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
