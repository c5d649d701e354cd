"""FSAF (arXiv 1903.00621): every object trains the level of the pyramid that fits it best."""

from cupola.models.fsaf.assigning import CenterRegionAssigner
from cupola.models.fsaf.coder import TBLRBBoxCoder
from cupola.models.fsaf.head import FSAF, FSAFHead

__all__ = ["FSAF", "CenterRegionAssigner", "FSAFHead", "TBLRBBoxCoder"]
