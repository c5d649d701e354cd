"""FCOS (arXiv 1904.01355): every cell predicts a class, the distances to the sides of its box,
and how central it is in it."""

from cupola.models.fcos.detector import FCOS
from cupola.models.fcos.head import FCOSHead

__all__ = ["FCOS", "FCOSHead"]
