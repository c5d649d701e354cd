"""TridentNet (arXiv 1901.01892): branches with the same weights and several dilations."""

from cupola.models.tridentnet.detector import TridentFasterRCNN, TridentRoIHead

__all__ = ["TridentFasterRCNN", "TridentRoIHead"]
