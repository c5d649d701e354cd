"""CornerNet (arXiv 1808.01244) and CentripetalNet (arXiv 2003.09119): boxes as pairs of corners."""

from cupola.models.cornernet.centripetal import CentripetalHead
from cupola.models.cornernet.embedding import AssociativeEmbeddingLoss
from cupola.models.cornernet.head import CornerHead, CornerNet

__all__ = ["AssociativeEmbeddingLoss", "CentripetalHead", "CornerHead", "CornerNet"]
