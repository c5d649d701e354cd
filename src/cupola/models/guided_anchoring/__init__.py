"""Guided anchoring (arXiv 1901.03278): the shapes of anchors are predicted, and where they are."""

from cupola.models.guided_anchoring.adaption import FeatureAdaption
from cupola.models.guided_anchoring.head import GuidedAnchorHead, GuidedOutput
from cupola.models.guided_anchoring.locations import location_targets
from cupola.models.guided_anchoring.retina_head import GARetinaHead
from cupola.models.guided_anchoring.rpn_head import GARPNHead

__all__ = [
    "FeatureAdaption",
    "GARPNHead",
    "GARetinaHead",
    "GuidedAnchorHead",
    "GuidedOutput",
    "location_targets",
]
