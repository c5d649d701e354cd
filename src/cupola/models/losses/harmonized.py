"""Gradient harmonized losses (arXiv 1811.05181): examples weigh less where their gradients crowd.

Letters: N samples, C classes. Source: mmdet/models/losses/ghm_loss.py.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from cupola import nn
from cupola.models.losses.reduction import check_reduction, weighted_mean
from cupola.registry import MODELS
from cupola.registry.budget import reserve


class GradientDensity(nn.Module):
    """Abstract: weights by the number of gradients in the same of `bins` bins of their length.

    With `momentum` the numbers are moving averages. Heads call these losses for every level alone.
    """

    by_level = True
    edges: Tensor
    acc_sum: Tensor

    def __init__(
        self, bins: int, momentum: float, loss_weight: float, reduction: str, last: float
    ) -> None:
        super().__init__()
        check_reduction(reduction)
        reserve(bins)
        self.momentum, self.loss_weight = momentum, loss_weight
        edges = torch.arange(bins + 1).float() / bins
        self.register_buffer("edges", torch.cat((edges[:-1], edges.new_tensor([last]))))
        if momentum > 0:
            self.register_buffer("acc_sum", torch.zeros(bins))

    def weights(self, lengths: Tensor, valid: Tensor, total: float) -> Tensor:
        """Lengths of gradients, and which count -> weights of the same shape."""
        found, used = torch.zeros_like(lengths), 0
        for i in range(len(self.edges) - 1):
            inside = (lengths >= self.edges[i]) & (lengths < self.edges[i + 1]) & valid
            count = inside.sum()
            if not count:
                continue
            if self.momentum > 0:
                kept = self.momentum * self.acc_sum[i] + (1 - self.momentum) * count
                self.acc_sum[i] = kept
                count = kept
            found[inside] = total / count
            used += 1
        return found / max(used, 1)


@MODELS.register_module()
class GHMC(GradientDensity):
    """Binary cross entropy of classes, harmonized, times `loss_weight`."""

    use_sigmoid = True

    def __init__(
        self,
        bins: int = 10,
        momentum: float = 0,
        use_sigmoid: bool = True,
        loss_weight: float = 1.0,
        reduction: str = "mean",
    ) -> None:
        if not use_sigmoid:
            raise ValueError("GHMC is defined on sigmoid scores; set use_sigmoid=True")
        super().__init__(bins, momentum, loss_weight, reduction, last=1 + 1e-6)

    def forward(
        self,
        logits: Tensor,
        labels: Tensor,
        weight: Tensor | None = None,
        avg_factor: Tensor | float | None = None,
    ) -> Tensor:
        """logits [N, C], labels [N] in 0..C (C = background) -> a scalar.

        Samples of weight 0 are left out; the mean is over the others, whatever `avg_factor` is.
        """
        target = F.one_hot(labels, logits.shape[-1] + 1)[:, :-1].to(logits.dtype)
        valid = torch.ones_like(target, dtype=torch.bool)
        if weight is not None:
            valid = valid & (weight > 0)[:, None]
        total = max(float(valid.sum()), 1.0)
        lengths = (logits.detach().sigmoid() - target).abs()
        loss = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
        weights = self.weights(lengths, valid, total)
        return self.loss_weight * weighted_mean(loss, weights, total)


@MODELS.register_module()
class GHMR(GradientDensity):
    """sqrt(error^2 + mu^2) - mu of boxes, harmonized, times `loss_weight`."""

    def __init__(
        self,
        mu: float = 0.02,
        bins: int = 10,
        momentum: float = 0,
        loss_weight: float = 1.0,
        reduction: str = "mean",
    ) -> None:
        super().__init__(bins, momentum, loss_weight, reduction, last=1e3)
        self.mu = mu

    def forward(
        self,
        boxes: Tensor,
        targets: Tensor,
        weight: Tensor | None = None,
        avg_factor: Tensor | float | None = None,
    ) -> Tensor:
        """boxes and targets [N, D] -> a scalar, the mean over all numbers."""
        error = boxes - targets
        length = (error.square() + self.mu**2).sqrt()
        valid = torch.ones_like(error) if weight is None else weight.expand_as(error)
        total = max(float(valid.sum()), 1.0)
        weights = self.weights((error / length).abs().detach(), valid > 0, total)
        return self.loss_weight * weighted_mean(length - self.mu, weights, total)
