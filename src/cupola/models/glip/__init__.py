"""GLIP (arXiv 2112.03857): a dense detector whose classes are the words of a text."""

from cupola.models.glip.coder import DeltaXYWHBBoxCoderForGLIP
from cupola.models.glip.glip import GLIP
from cupola.models.glip.head import ATSSVLFusionHead

__all__ = ["GLIP", "ATSSVLFusionHead", "DeltaXYWHBBoxCoderForGLIP"]
