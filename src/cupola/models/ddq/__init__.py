"""DDQ DETR (arXiv 2303.12776): DINO whose queries are made distinct by non-maximum suppression.

Suggested reading order: distinct, decoder, head, auxiliary, ddq.
"""

from cupola.models.ddq.auxiliary import AuxiliaryLoss, TopkHungarianAssigner
from cupola.models.ddq.ddq import DDQDETR
from cupola.models.ddq.decoder import DDQTransformerDecoder
from cupola.models.ddq.head import DDQDETRHead

__all__ = [
    "DDQDETR",
    "AuxiliaryLoss",
    "DDQDETRHead",
    "DDQTransformerDecoder",
    "TopkHungarianAssigner",
]
