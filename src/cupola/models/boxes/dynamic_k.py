"""Assignment by a cost, where each object takes as many cells as its boxes overlap it.

Letters: B images, V cells, N objects of an image, padded. Source: YOLOX (arXiv 2107.08430),
section 2.1; mmdet/models/task_modules/assigners.
"""

import torch
from torch import Tensor

from cupola.models.boxes.assigning import NEGATIVE


def dynamic_k(cost: Tensor, overlaps: Tensor, possible: Tensor, topk: int) -> tuple[Tensor, Tensor]:
    """Costs, IoU and which pairs are possible [B, V, N] -> objects [B, V] and their IoU [B, V].

    An object takes as many cells of the lowest cost as its `topk` largest IoU sum to, at least one;
    a cell is for the object of its lowest cost. Other cells are NEGATIVE, with an IoU of 0. All
    objects are chosen at once: a loop over them costs a synchronization with the GPU each.
    """
    if not cost[0].numel():
        nothing = torch.full(cost.shape[:2], NEGATIVE, device=cost.device)
        return nothing, torch.zeros_like(nothing, dtype=overlaps.dtype)
    cost = cost.masked_fill(~possible, torch.inf)
    overlaps = overlaps.masked_fill(~possible, 0)
    most = min(topk, cost.shape[1])
    counts = overlaps.topk(most, 1).values.sum(1).int().clamp(min=1)  # [B, N]
    cheapest = cost.topk(most, 1, largest=False).indices  # [B, most, N]
    chosen = torch.arange(most, device=cost.device)[:, None] < counts[:, None]
    matched = torch.zeros_like(possible).scatter(1, cheapest, chosen) & possible
    several = matched.sum(-1) > 1
    best = torch.zeros_like(matched).scatter(2, cost.argmin(-1, keepdim=True), True)
    matched = torch.where(several[..., None], best, matched)
    objects = matched.int().argmax(-1).masked_fill(~matched.any(-1), NEGATIVE)  # [B, V]
    return objects, (matched * overlaps).sum(-1)
