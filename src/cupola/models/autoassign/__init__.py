"""AutoAssign (arXiv 2007.03496): every cell in an object learns both, being positive or negative;
how much of each follows from what it predicts, and from a prior that is learned for each class."""

from cupola.models.autoassign.head import AutoAssign, AutoAssignHead
from cupola.models.autoassign.prior import CenterPrior

__all__ = ["AutoAssign", "AutoAssignHead", "CenterPrior"]
