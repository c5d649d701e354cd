"""Dialects: the spellings of other projects' checkpoints. The first one that fits is used."""

from cupola.weights.dialects.afno_transformer import AFNO_TRANSFORMER
from cupola.weights.dialects.base import Dialect
from cupola.weights.dialects.conditional_detr import CONDITIONAL_DIALECTS
from cupola.weights.dialects.deformable_detr import DEFORMABLE_DIALECTS
from cupola.weights.dialects.detr import DETR_DIALECTS
from cupola.weights.dialects.detr3d import DETR3D_DIALECTS
from cupola.weights.dialects.fourcastnet import FOURCASTNET
from cupola.weights.dialects.grounding_dino import GROUNDING_DIALECTS
from cupola.weights.dialects.hugging_face import LANGUAGE_DIALECTS
from cupola.weights.dialects.mask_classification import MASK_DIALECTS
from cupola.weights.dialects.mmdet_early import EARLY_DIALECTS
from cupola.weights.dialects.neuraloperator import NEURALOPERATOR
from cupola.weights.dialects.physicsnemo import PHYSICSNEMO
from cupola.weights.dialects.swin import SWIN_DIALECTS

AFNO_DIALECTS = (FOURCASTNET, PHYSICSNEMO, AFNO_TRANSFORMER, NEURALOPERATOR)

DIALECTS: dict[str, Dialect] = {
    dialect.name: dialect
    for dialect in (
        *MASK_DIALECTS,
        *CONDITIONAL_DIALECTS,
        *GROUNDING_DIALECTS,
        *DEFORMABLE_DIALECTS,
        *DETR_DIALECTS,
        *DETR3D_DIALECTS,
        *AFNO_DIALECTS,
        *LANGUAGE_DIALECTS,
        *SWIN_DIALECTS,
        *EARLY_DIALECTS,
    )
}

__all__ = ["DIALECTS", "Dialect"]
