"""How element-wise losses become one number."""

import torch
import torch.distributed as dist
from torch import Tensor

# MMDetection adds it to every average factor; facebookresearch/detr does not. 1.2e-7 relative.
EPS = torch.finfo(torch.float32).eps


def weighted_mean(loss: Tensor, weight: Tensor | None, avg_factor: Tensor | float | None) -> Tensor:
    """sum(loss * weight) / avg_factor, or the plain mean where no factor is given."""
    if weight is not None:
        loss = loss * weight
    return loss.mean() if avg_factor is None else loss.sum() / (avg_factor + EPS)


def mean_over_ranks(value: float, device: torch.device) -> float:
    """The mean of a count over all data-parallel ranks; the value itself in one process."""
    if not (dist.is_available() and dist.is_initialized()):
        return value
    total = torch.tensor(value, dtype=torch.float32, device=device)
    dist.all_reduce(total)
    return float(total) / dist.get_world_size()
