"""FoveaBox (arXiv 1904.03797): cells in the middle of an object predict its sides."""

from cupola.models.foveabox.head import FOVEA, FeatureAlign, FoveaHead

__all__ = ["FOVEA", "FeatureAlign", "FoveaHead"]
