"""RTMDet (arXiv 2212.07784): a fast detector that is trained with soft labels."""

from cupola.models.rtmdet.assigning import DynamicSoftLabelAssigner
from cupola.models.rtmdet.head import RTMDet, RTMDetHead, RTMDetSepBNHead
from cupola.models.rtmdet.masks import RTMDetInsSepBNHead

__all__ = [
    "DynamicSoftLabelAssigner",
    "RTMDet",
    "RTMDetHead",
    "RTMDetInsSepBNHead",
    "RTMDetSepBNHead",
]
