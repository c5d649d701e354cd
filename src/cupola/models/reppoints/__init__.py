"""RepPoints (arXiv 1904.11490): an object as nine points, whose spread is its box."""

from cupola.models.reppoints.assigning import PointAssigner
from cupola.models.reppoints.head import RepPointsDetector, RepPointsHead

__all__ = ["PointAssigner", "RepPointsDetector", "RepPointsHead"]
