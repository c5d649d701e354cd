"""Losses; each takes predictions, targets, weights and an average factor."""

from cupola.models.losses.boxes import (
    BalancedL1Loss,
    BoundedIoULoss,
    GIoULoss,
    IoULoss,
    L1Loss,
    MSELoss,
    SmoothL1Loss,
)
from cupola.models.losses.classification import (
    CrossEntropyLoss,
    FocalLoss,
    QualityFocalLoss,
    VarifocalLoss,
)
from cupola.models.losses.complete_iou import CIoULoss
from cupola.models.losses.distillation import KnowledgeDistillationKLDivLoss
from cupola.models.losses.distributions import DistributionFocalLoss
from cupola.models.losses.gaussian import GaussianFocalLoss
from cupola.models.losses.harmonized import GHMC, GHMR
from cupola.models.losses.masks import DiceLoss
from cupola.models.losses.reduction import weighted_mean
from cupola.models.losses.seesaw import SeesawLoss
from cupola.models.losses.vast_vocabulary import CrossEntropyCustomLoss, FocalCustomLoss

__all__ = [
    "GHMC",
    "GHMR",
    "BalancedL1Loss",
    "BoundedIoULoss",
    "CIoULoss",
    "CrossEntropyCustomLoss",
    "CrossEntropyLoss",
    "DiceLoss",
    "DistributionFocalLoss",
    "FocalCustomLoss",
    "FocalLoss",
    "GIoULoss",
    "GaussianFocalLoss",
    "IoULoss",
    "KnowledgeDistillationKLDivLoss",
    "L1Loss",
    "MSELoss",
    "QualityFocalLoss",
    "SeesawLoss",
    "SmoothL1Loss",
    "VarifocalLoss",
    "weighted_mean",
]
