"""Mask2Former: MaskFormer with another head."""

from cupola.models.maskformer import MaskFormer
from cupola.registry import MODELS


@MODELS.register_module()
class Mask2Former(MaskFormer):
    """Instance and panoptic segmentation; its `panoptic_head` is a Mask2FormerHead."""
