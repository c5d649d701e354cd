"""SCNet (arXiv 2012.10150): a cascade whose one mask head sees what the last box head saw."""

from cupola.models.scnet.blocks import SimplifiedBasicBlock, simplified_blocks
from cupola.models.scnet.heads import (
    FeatureRelayHead,
    GlobalContextHead,
    SCNetMaskHead,
    SCNetSemanticHead,
)
from cupola.models.scnet.roi_head import SCNet, SCNetBBoxHead, SCNetRoIHead

__all__ = [
    "FeatureRelayHead",
    "GlobalContextHead",
    "SCNet",
    "SCNetBBoxHead",
    "SCNetMaskHead",
    "SCNetRoIHead",
    "SCNetSemanticHead",
    "SimplifiedBasicBlock",
    "simplified_blocks",
]
