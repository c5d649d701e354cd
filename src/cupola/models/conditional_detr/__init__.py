"""Conditional DETR (arXiv 2108.06152): DETR whose queries look around a reference point."""

from cupola.models.conditional_detr.conditional_detr import (
    ConditionalDETR,
    ConditionalDETRHead,
    ConditionalDetrTransformerDecoder,
)

__all__ = ["ConditionalDETR", "ConditionalDETRHead", "ConditionalDetrTransformerDecoder"]
