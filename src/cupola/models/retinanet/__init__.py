"""RetinaNet (arXiv 1708.02002): anchors at every cell, trained with the focal loss."""

from cupola.models.retinanet.free_anchor import FreeAnchorRetinaHead
from cupola.models.retinanet.head import RetinaHead, RetinaNet, RetinaSepBNHead

__all__ = ["FreeAnchorRetinaHead", "RetinaHead", "RetinaNet", "RetinaSepBNHead"]
