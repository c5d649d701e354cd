"""Reduction of element-wise losses to a scalar."""

import torch
from torch import Tensor

# MMDetection adds it to every average factor; facebookresearch/detr does not (1.2e-7 relative).
EPS = torch.finfo(torch.float32).eps


def weighted_mean(loss: Tensor, weight: Tensor | None, avg_factor: Tensor | float | None) -> Tensor:
    """sum(loss * weight) / avg_factor, or the plain mean if there is no factor."""
    if weight is not None:
        loss = loss * weight
    return loss.mean() if avg_factor is None else loss.sum() / (avg_factor + EPS)


def check_reduction(reduction: str) -> None:
    """ValueError for the reductions of published losses that nothing here uses."""
    if reduction != "mean":
        raise ValueError(f"reduction is {reduction!r}; losses are averaged, with 'mean' only")
