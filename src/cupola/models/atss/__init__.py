"""ATSS (arXiv 1912.02424): the IoU that makes an anchor positive follows from its neighbors."""

from cupola.models.atss.assigning import ATSSAssigner
from cupola.models.atss.head import ATSS, ATSSHead

__all__ = ["ATSS", "ATSSAssigner", "ATSSHead"]
