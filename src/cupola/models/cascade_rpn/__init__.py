"""Cascade RPN (arXiv 1909.06720): proposals in stages, whose features follow the anchors."""

from cupola.models.cascade_rpn.assigning import RegionAssigner
from cupola.models.cascade_rpn.head import CascadeRPNHead
from cupola.models.cascade_rpn.stage import StageCascadeRPNHead

__all__ = ["CascadeRPNHead", "RegionAssigner", "StageCascadeRPNHead"]
