"""CondInst (arXiv 2003.05664): every cell predicts a small network that segments its object.

BoxInst (arXiv 2012.02310) trains it from boxes alone: a mask should fill its box, and pixels of
similar colors belong together.
"""

from cupola.models.condinst.box_head import BoxInstBboxHead, CondInstBboxHead
from cupola.models.condinst.boxinst import BoxInst, BoxInstDataPreprocessor, BoxInstMaskHead
from cupola.models.condinst.detector import CondInst
from cupola.models.condinst.mask_head import CondInstMaskHead

__all__ = [
    "BoxInst",
    "BoxInstBboxHead",
    "BoxInstDataPreprocessor",
    "BoxInstMaskHead",
    "CondInst",
    "CondInstBboxHead",
    "CondInstMaskHead",
]
