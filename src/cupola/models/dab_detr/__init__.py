"""DAB-DETR (arXiv 2201.12329): queries are anchor boxes, refined by every decoder layer."""

from cupola.models.dab_detr.dab_detr import (
    DABDETR,
    DABDETRHead,
    DABDetrTransformerDecoder,
    DABDetrTransformerEncoder,
)

__all__ = ["DABDETR", "DABDETRHead", "DABDetrTransformerDecoder", "DABDetrTransformerEncoder"]
