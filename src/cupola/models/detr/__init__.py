"""DETR (arXiv 2005.12872): detection as a set prediction.

Suggested reading order: transformer, head, detr. `nested` is the structure of MMDetection 2.x.
"""

from cupola.models.detr.detr import DETR
from cupola.models.detr.head import DETRHead
from cupola.models.detr.nested import NestedDETRHead, Transformer
from cupola.models.detr.postprocess import postprocess
from cupola.models.detr.preprocessor import DetDataPreprocessor
from cupola.models.detr.pretrain import DensePretrainer
from cupola.models.detr.set_head import DETROutput
from cupola.models.detr.transformer import DetrTransformerDecoder, DetrTransformerEncoder

__all__ = [
    "DETR",
    "DETRHead",
    "DETROutput",
    "DensePretrainer",
    "DetDataPreprocessor",
    "DetrTransformerDecoder",
    "DetrTransformerEncoder",
    "NestedDETRHead",
    "Transformer",
    "postprocess",
]
