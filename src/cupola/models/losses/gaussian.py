"""Losses of heatmaps that are Gaussian around objects."""

import torch
from torch import Tensor

from cupola import nn
from cupola.models.losses.reduction import check_reduction, weighted_mean
from cupola.registry import MODELS

EPS = 1e-12


@MODELS.register_module()
class GaussianFocalLoss(nn.Module):
    """Focal loss whose negatives weigh less near an object (CornerNet, arXiv 1808.01244, eq. 1).

    Source: mmdet/models/losses/gaussian_focal_loss.py.
    """

    use_sigmoid = True

    def __init__(
        self,
        alpha: float = 2.0,
        gamma: float = 4.0,
        reduction: str = "mean",
        loss_weight: float = 1.0,
        pos_weight: float = 1.0,
        neg_weight: float = 1.0,
    ) -> None:
        super().__init__()
        check_reduction(reduction)
        self.alpha, self.gamma, self.loss_weight = alpha, gamma, loss_weight
        self.pos_weight, self.neg_weight = pos_weight, neg_weight

    def forward(
        self,
        scores: Tensor,
        targets: Tensor,
        weight: Tensor | None = None,
        avg_factor: Tensor | float | None = None,
        positive: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """scores and targets, both 0..1 and of one shape -> a scalar.

        Positive are the places where the target is 1, or for scores [N, C] the rows and classes
        `positive`, both [P].
        """
        miss = -(1 - scores + EPS).log() * scores.pow(self.alpha) * (1 - targets).pow(self.gamma)
        chosen = scores if positive is None else scores[positive]
        hit = -(chosen + EPS).log() * (1 - chosen).pow(self.alpha)
        if positive is None:
            loss = self.pos_weight * hit * (targets == 1) + self.neg_weight * miss
            return self.loss_weight * weighted_mean(loss, weight, avg_factor)
        parts = ((self.pos_weight, hit), (self.neg_weight, miss))
        losses = [factor * weighted_mean(part, None, avg_factor) for factor, part in parts]
        return self.loss_weight * torch.stack(losses).sum()
