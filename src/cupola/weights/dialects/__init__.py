"""Foreign spellings of checkpoints, one file per model family. The first that fits is taken."""

from cupola.weights.dialects.base import Dialect
from cupola.weights.dialects.bloom_hf import BLOOM_HF
from cupola.weights.dialects.detr import DETR_DIALECTS

DIALECTS: dict[str, Dialect] = {dialect.name: dialect for dialect in (*DETR_DIALECTS, BLOOM_HF)}

__all__ = ["DIALECTS", "Dialect"]
