"""SSD (arXiv 1512.02325): anchors on many levels, trained with the hardest negatives."""

from cupola.models.ssd.anchors import LegacySSDAnchorGenerator, SSDAnchorGenerator
from cupola.models.ssd.head import SSDHead

__all__ = ["LegacySSDAnchorGenerator", "SSDAnchorGenerator", "SSDHead"]
