"""YOLOF (arXiv 2103.09460): one level, with anchors matched uniformly."""

from cupola.models.yolof.assigning import UniformAssigner
from cupola.models.yolof.head import YOLOF, YOLOFHead

__all__ = ["YOLOF", "UniformAssigner", "YOLOFHead"]
