"""Losses of distributions over distances."""

import torch.nn.functional as F
from torch import Tensor

from cupola import nn
from cupola.models.losses.reduction import check_reduction, weighted_mean
from cupola.registry import MODELS


@MODELS.register_module()
class DistributionFocalLoss(nn.Module):
    """Cross entropy with the two integers around a distance (arXiv 2006.04388, equation 6)."""

    def __init__(self, reduction: str = "mean", loss_weight: float = 1.0) -> None:
        super().__init__()
        check_reduction(reduction)
        self.loss_weight = loss_weight

    def forward(
        self,
        logits: Tensor,
        distances: Tensor,
        weight: Tensor | None = None,
        avg_factor: Tensor | float | None = None,
    ) -> Tensor:
        """logits [N, n] of 0..n - 1, distances [N] below n - 1 -> a scalar."""
        low = distances.long()
        below = F.cross_entropy(logits, low, reduction="none") * (low + 1 - distances)
        above = F.cross_entropy(logits, low + 1, reduction="none") * (distances - low)
        return self.loss_weight * weighted_mean(below + above, weight, avg_factor)
