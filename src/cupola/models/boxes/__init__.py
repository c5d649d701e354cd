"""Boxes of detectors: anchors, deltas, assignment to objects, and sampling. Small and pure."""

from cupola.models.boxes.anchors import AnchorGenerator, LegacyAnchorGenerator, MlvlPointGenerator
from cupola.models.boxes.assigning import (
    IGNORED,
    NEGATIVE,
    ApproxMaxIoUAssigner,
    Assignment,
    MaxIoUAssigner,
)
from cupola.models.boxes.balanced_sampling import (
    CombinedSampler,
    InstanceBalancedPosSampler,
    IoUBalancedNegSampler,
)
from cupola.models.boxes.deltas import DeltaXYWHBBoxCoder, LegacyDeltaXYWHBBoxCoder, clip
from cupola.models.boxes.distances import DistancePointBBoxCoder
from cupola.models.boxes.overlaps import BboxOverlaps2D, InclusiveOverlaps
from cupola.models.boxes.sampling import PseudoSampler, RandomSampler, Sample, with_objects

__all__ = [
    "IGNORED",
    "NEGATIVE",
    "AnchorGenerator",
    "ApproxMaxIoUAssigner",
    "Assignment",
    "BboxOverlaps2D",
    "CombinedSampler",
    "DeltaXYWHBBoxCoder",
    "DistancePointBBoxCoder",
    "InclusiveOverlaps",
    "InstanceBalancedPosSampler",
    "IoUBalancedNegSampler",
    "LegacyAnchorGenerator",
    "LegacyDeltaXYWHBBoxCoder",
    "MaxIoUAssigner",
    "MlvlPointGenerator",
    "PseudoSampler",
    "RandomSampler",
    "Sample",
    "clip",
    "with_objects",
]
