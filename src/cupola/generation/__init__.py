"""Text generation with any model that fulfills the CausalLM protocol."""

from cupola.generation.dense_attention import DenseCache, DenseContext
from cupola.generation.protocol import AttentionContext, CausalLM, Heads, run_layers
from cupola.generation.sampling import SamplingParams
from cupola.generation.scheduler import Scheduler
from cupola.generation.sequence import Token

__all__ = [
    "AttentionContext",
    "CausalLM",
    "DenseCache",
    "DenseContext",
    "Heads",
    "SamplingParams",
    "Scheduler",
    "Token",
    "run_layers",
]
