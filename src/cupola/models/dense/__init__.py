"""What dense detectors share: a prediction at every cell of a feature pyramid, then NMS."""

from cupola.models.dense.detector import SingleStageDetector
from cupola.models.dense.points import grid_points
from cupola.models.dense.postprocess import CANDIDATES, Candidates, best_candidates, suppress

__all__ = [
    "CANDIDATES",
    "Candidates",
    "SingleStageDetector",
    "best_candidates",
    "grid_points",
    "suppress",
]
