"""TOOD (arXiv 2108.07755): classes and boxes from shared features, aligned in training."""

from cupola.models.tood.assigning import TaskAlignedAssigner
from cupola.models.tood.head import TOOD, TOODHead

__all__ = ["TOOD", "TOODHead", "TaskAlignedAssigner"]
