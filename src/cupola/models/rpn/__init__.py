"""RPN (Faster R-CNN, arXiv 1506.01497): proposals of boxes that may hold an object."""

from cupola.models.rpn.detector import RPN
from cupola.models.rpn.head import RPNHead

__all__ = ["RPN", "RPNHead"]
