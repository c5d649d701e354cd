"""Foreign spellings of checkpoints, one file per model family. The first that fits is taken."""

from cupola.weights.dialects.afno_transformer import AFNO_TRANSFORMER
from cupola.weights.dialects.base import Dialect
from cupola.weights.dialects.bloom_hf import BLOOM_HF
from cupola.weights.dialects.detr import DETR_DIALECTS
from cupola.weights.dialects.detr3d import DETR3D_DIALECTS
from cupola.weights.dialects.fourcastnet import FOURCASTNET
from cupola.weights.dialects.physicsnemo import PHYSICSNEMO

AFNO_DIALECTS = (FOURCASTNET, PHYSICSNEMO, AFNO_TRANSFORMER)

DIALECTS: dict[str, Dialect] = {
    dialect.name: dialect
    for dialect in (*DETR_DIALECTS, *DETR3D_DIALECTS, *AFNO_DIALECTS, BLOOM_HF)
}

__all__ = ["DIALECTS", "Dialect"]
