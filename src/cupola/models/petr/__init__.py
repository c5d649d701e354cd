"""PETR (arXiv 2203.05625) and PETRv2 (arXiv 2206.01256): detection with 3-D position embeddings."""

from cupola.models.petr.encoding import SinePositionalEncoding3D
from cupola.models.petr.head import PETRHead, Views
from cupola.models.petr.head_v2 import PETRv2DNHead, PETRv2Head, SELayer
from cupola.models.petr.petr import PETR, CameraDetector, Petr3DOriginal
from cupola.models.petr.petr_v2 import PETRv2, PETRv2State
from cupola.models.petr.transformer import (
    PETRMultiheadAttention,
    PETRTransformer,
    PETRTransformerDecoder,
    PETRTransformerDecoderLayer,
)

__all__ = [
    "PETR",
    "CameraDetector",
    "PETRHead",
    "PETRMultiheadAttention",
    "PETRTransformer",
    "PETRTransformerDecoder",
    "PETRTransformerDecoderLayer",
    "PETRv2",
    "PETRv2DNHead",
    "PETRv2Head",
    "PETRv2State",
    "Petr3DOriginal",
    "SELayer",
    "SinePositionalEncoding3D",
    "Views",
]
