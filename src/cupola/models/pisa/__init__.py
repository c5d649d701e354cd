"""Prime sample attention (arXiv 1904.04821): examples that matter for the AP weigh more."""

from cupola.models.pisa.dense_heads import PISARetinaHead, PISASSDHead
from cupola.models.pisa.roi_head import PISARoIHead
from cupola.models.pisa.sampler import ScoreHLRSampler

__all__ = ["PISARetinaHead", "PISARoIHead", "PISASSDHead", "ScoreHLRSampler"]
