"""YOLOX (arXiv 2107.08430): one box a cell, trained with SimOTA."""

from cupola.models.yolox.assigning import SimOTAAssigner
from cupola.models.yolox.detector import YOLOX, BatchSyncRandomResize
from cupola.models.yolox.head import YOLOXHead

__all__ = ["YOLOX", "BatchSyncRandomResize", "SimOTAAssigner", "YOLOXHead"]
