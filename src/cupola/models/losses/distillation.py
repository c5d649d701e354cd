"""Losses towards what a teacher predicts."""

import torch.nn.functional as F
from torch import Tensor

from cupola import nn
from cupola.models.losses.reduction import check_reduction, weighted_mean
from cupola.registry import MODELS


@MODELS.register_module()
class KnowledgeDistillationKLDivLoss(nn.Module):
    """Mean Kullback-Leibler divergence to a teacher's distribution, both at temperature `T`.

    Times T^2 (arXiv 1503.02531) and `loss_weight`. Source: mmdet/models/losses/kd_loss.py.
    """

    def __init__(self, reduction: str = "mean", loss_weight: float = 1.0, T: int = 10) -> None:
        super().__init__()
        check_reduction(reduction)
        if T < 1:
            raise ValueError(f"T is {T}; the temperature should be at least 1")
        self.loss_weight, self.T = loss_weight, T

    def forward(
        self,
        logits: Tensor,
        teacher: Tensor,
        weight: Tensor | None = None,
        avg_factor: Tensor | float | None = None,
    ) -> Tensor:
        """logits and those of the teacher [N, n], weight [N] -> a scalar."""
        goal = (teacher / self.T).softmax(1).detach()
        loss = F.kl_div((logits / self.T).log_softmax(1), goal, reduction="none").mean(1)
        return self.loss_weight * weighted_mean(loss * self.T**2, weight, avg_factor)
