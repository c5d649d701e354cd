"""Panoptic FPN (arXiv 1901.02446): Mask R-CNN with a branch for stuff on the same pyramid."""

from cupola.models.panoptic_fpn.detector import PanopticFPN
from cupola.models.panoptic_fpn.fusion import HeuristicFusionHead
from cupola.models.panoptic_fpn.semantic_head import PanopticFPNHead

__all__ = ["HeuristicFusionHead", "PanopticFPN", "PanopticFPNHead"]
