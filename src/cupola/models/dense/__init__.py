"""What dense detectors share: a prediction at every cell of a feature pyramid, then NMS."""

from cupola.models.dense.anchor_head import AnchorHead, DenseOutput
from cupola.models.dense.detector import SingleStageDetector
from cupola.models.dense.points import grid_points
from cupola.models.dense.postprocess import (
    CANDIDATES,
    Candidates,
    best_candidates,
    best_of_levels,
    level_rows,
    suppress,
)
from cupola.models.dense.targets import ImageSizes

__all__ = [
    "CANDIDATES",
    "AnchorHead",
    "Candidates",
    "DenseOutput",
    "ImageSizes",
    "SingleStageDetector",
    "best_candidates",
    "best_of_levels",
    "grid_points",
    "level_rows",
    "suppress",
]
