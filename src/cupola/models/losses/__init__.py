"""Losses; each takes predictions, targets, weights and an average factor."""

from cupola.models.losses.boxes import GIoULoss, IoULoss, L1Loss, SmoothL1Loss
from cupola.models.losses.classification import (
    CrossEntropyLoss,
    FocalLoss,
    QualityFocalLoss,
    VarifocalLoss,
)
from cupola.models.losses.distributions import DistributionFocalLoss
from cupola.models.losses.masks import DiceLoss
from cupola.models.losses.reduction import weighted_mean

__all__ = [
    "CrossEntropyLoss",
    "DiceLoss",
    "DistributionFocalLoss",
    "FocalLoss",
    "GIoULoss",
    "IoULoss",
    "L1Loss",
    "QualityFocalLoss",
    "SmoothL1Loss",
    "VarifocalLoss",
    "weighted_mean",
]
