"""YOLACT (arXiv 1904.02689): masks are sums of prototypes; anchors predict the coefficients."""

from cupola.models.yolact.detector import YOLACT
from cupola.models.yolact.head import YOLACTHead
from cupola.models.yolact.prototypes import YOLACTProtonet, YOLACTSegmHead

__all__ = ["YOLACT", "YOLACTHead", "YOLACTProtonet", "YOLACTSegmHead"]
