"""Sparse R-CNN (arXiv 2011.12450) and QueryInst (arXiv 2105.01928): learned proposals."""

from cupola.models.sparse_rcnn.box_head import DIIHead
from cupola.models.sparse_rcnn.detector import QueryInst, SparseRCNN
from cupola.models.sparse_rcnn.dynamic_conv import DynamicConv
from cupola.models.sparse_rcnn.mask_head import DynamicMaskHead
from cupola.models.sparse_rcnn.proposals import EmbeddingRPNHead, Queries
from cupola.models.sparse_rcnn.roi_head import SparseRoIHead

__all__ = [
    "DIIHead",
    "DynamicConv",
    "DynamicMaskHead",
    "EmbeddingRPNHead",
    "Queries",
    "QueryInst",
    "SparseRCNN",
    "SparseRoIHead",
]
