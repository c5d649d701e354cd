"""GFL (arXiv 2006.04388): scores are the quality of the box, distances are distributions."""

from cupola.models.gfl.head import GFL, GFLHead, Integral

__all__ = ["GFL", "GFLHead", "Integral"]
