"""LAD (arXiv 2108.10520): a detector is trained with the anchors that a teacher assigns."""

from cupola.models.lad.detector import LAD
from cupola.models.lad.head import LADHead

__all__ = ["LAD", "LADHead"]
