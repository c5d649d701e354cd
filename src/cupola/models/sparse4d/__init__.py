"""Sparse4D v3 (arXiv 2311.11722): multi-camera detection and tracking with sparse instances."""

from cupola.models.sparse4d.aggregation import DeformableFeatureAggregation
from cupola.models.sparse4d.bank import InstanceBank
from cupola.models.sparse4d.boxes import (
    SparseBox3DEncoder,
    SparseBox3DKeyPointsGenerator,
    SparseBox3DRefinementModule,
)
from cupola.models.sparse4d.decoder import SparseBox3DDecoder
from cupola.models.sparse4d.depth import DenseDepthNet
from cupola.models.sparse4d.frame import Frame, InstanceState, Sparse4DOutput
from cupola.models.sparse4d.head import Sparse4DHead
from cupola.models.sparse4d.layers import AsymmetricFFN
from cupola.models.sparse4d.sparse4d import Sparse4D

__all__ = [
    "AsymmetricFFN",
    "DeformableFeatureAggregation",
    "DenseDepthNet",
    "Frame",
    "InstanceBank",
    "InstanceState",
    "Sparse4D",
    "Sparse4DHead",
    "Sparse4DOutput",
    "SparseBox3DDecoder",
    "SparseBox3DEncoder",
    "SparseBox3DKeyPointsGenerator",
    "SparseBox3DRefinementModule",
]
