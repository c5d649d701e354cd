"""MaskFormer (arXiv 2107.06278): segmentation as the classification of masks.

Suggested reading order: pixel_decoder, head, fusion, maskformer. Losses and targets, shared with
Mask2Former, are in models/mask_classification.py.
"""

from cupola.models.maskformer.fusion import MaskFormerFusionHead
from cupola.models.maskformer.head import MaskFormerHead
from cupola.models.maskformer.maskformer import MaskFormer
from cupola.models.maskformer.pixel_decoder import PixelDecoder, TransformerEncoderPixelDecoder

__all__ = [
    "MaskFormer",
    "MaskFormerFusionHead",
    "MaskFormerHead",
    "PixelDecoder",
    "TransformerEncoderPixelDecoder",
]
