"""Deformable DETR (arXiv 2010.04159): attention samples a few points of feature maps at 4 scales.

Suggested reading order: queries, head, deformable_detr. The encoder, the decoder and the attention
are shared layers. `nested` is the structure of MMDetection 2.x.
"""

from cupola.models.deformable_detr.deformable_detr import DeformableDETR
from cupola.models.deformable_detr.head import DeformableDETRHead
from cupola.models.deformable_detr.nested import (
    DeformableDetrTransformer,
    NestedDeformableDecoder,
    NestedDeformableDETRHead,
)

__all__ = [
    "DeformableDETR",
    "DeformableDETRHead",
    "DeformableDetrTransformer",
    "NestedDeformableDETRHead",
    "NestedDeformableDecoder",
]
