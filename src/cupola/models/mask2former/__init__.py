"""Mask2Former (arXiv 2112.01527): masked attention, deformable pixel decoder, sampled points.

Suggested reading order: pixel_decoder, decoder, head, points; the rest is MaskFormer's.
"""

from cupola.models.mask2former.head import Mask2FormerHead
from cupola.models.mask2former.mask2former import Mask2Former
from cupola.models.mask2former.pixel_decoder import MSDeformAttnPixelDecoder

__all__ = ["MSDeformAttnPixelDecoder", "Mask2Former", "Mask2FormerHead"]
