"""PAA (arXiv 2007.08103): a Gaussian mixture of the losses chooses the positive anchors."""

from cupola.models.paa.head import PAA, PAAHead

__all__ = ["PAA", "PAAHead"]
