"""Scores of one forecast against the truth, each a mean over the grid. No state.

Letters: M members, C channels, H rows, W columns. Points where the truth is NaN do not count.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Area:
    """The weights of the points of a region, [H, W] or broadcast to it; 0 outside the region."""

    weights: Tensor

    @staticmethod
    def of(rows: Tensor, mask: Tensor | None, width: int) -> "Area":
        """Row weights [H, 1] within a region's mask [H, W]."""
        weights = rows.double().expand(-1, width)
        return Area(weights if mask is None else weights * mask)

    def mean(self, field: Tensor, valid: Tensor | None = None) -> Tensor:
        """Weighted mean over the valid points, [..., H, W] -> [...]; NaN where there are none."""
        if valid is None:
            return (field * self.weights).sum(dim=(-2, -1)) / self.weights.sum()
        weights = self.weights * valid
        return (field * weights).sum(dim=(-2, -1)) / weights.sum(dim=(-2, -1))


def crps(members: Tensor, truth: Tensor) -> Tensor:
    """The fair continuous ranked probability score at each point, [M, ...] and [...] -> [...].

    mean |x_i - y| - sum |x_i - x_j| / (2 M (M - 1)): unbiased in the size of the ensemble (Ferro
    2014); the absolute error for one member.
    """
    M = len(members)
    error = (members - truth).abs().mean(dim=0)
    if M == 1:
        return error
    ordered = members.sort(dim=0).values
    # sum over pairs i < j of x_j - x_i, from the sorted members: (2 i - M + 1) x_i
    factors = 2 * torch.arange(M, dtype=members.dtype, device=members.device) - M + 1
    pairs = (ordered * factors.view(M, *[1] * truth.ndim)).sum(dim=0)
    return error - pairs / (M * (M - 1))


def rank_counts(members: Tensor, truth: Tensor, valid: Tensor) -> Tensor:
    """How often the truth has each rank among the members, [C, M + 1].

    members [M, C, H, W], truth and valid [C, H, W]. A tie is shared among its ranks equally.
    """
    M = len(members)
    below = (members < truth).sum(dim=0)
    equal = (members == truth).sum(dim=0)
    counts = truth.new_zeros(truth.shape[0], M + 1)
    for shared in range(int(equal.max()) + 1):
        chosen = (equal == shared) & valid
        for offset in range(shared + 1):
            ranks = (below + offset).clamp(max=M).flatten(1)
            counts.scatter_add_(1, ranks, chosen.flatten(1).to(counts.dtype) / (shared + 1))
    return counts


def anomaly_correlation(
    forecast: Tensor, truth: Tensor, climate: Tensor, area: Area, valid: Tensor | None
) -> Tensor:
    """Correlation of the departures from the climatology, [C, H, W] -> [C], not centered again."""
    f, t = forecast - climate, truth - climate
    product = area.mean(f * t, valid)
    return product / (area.mean(f * f, valid) * area.mean(t * t, valid)).sqrt()
