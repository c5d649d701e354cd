"""Hybrid Task Cascade (arXiv 1901.07518): masks of every stage, and a semantic branch."""

from cupola.models.htc.mask_head import HTCMaskHead
from cupola.models.htc.roi_head import HybridTaskCascade, HybridTaskCascadeRoIHead
from cupola.models.htc.semantic_head import FusedSemanticHead

__all__ = ["FusedSemanticHead", "HTCMaskHead", "HybridTaskCascade", "HybridTaskCascadeRoIHead"]
