"""Mask Scoring R-CNN (arXiv 1903.00241): the score of a mask is multiplied by its expected IoU."""

from cupola.models.mask_scoring.iou_head import MaskIoUHead
from cupola.models.mask_scoring.roi_head import MaskScoringRCNN, MaskScoringRoIHead

__all__ = ["MaskIoUHead", "MaskScoringRCNN", "MaskScoringRoIHead"]
