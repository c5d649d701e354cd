"""Assignment by a cost, where each object takes as many cells as its boxes overlap it.

Letters: V cells that may be positive, N objects of an image. Source: YOLOX (arXiv 2107.08430),
section 2.1; mmdet/models/task_modules/assigners.
"""

import torch
from torch import Tensor

from cupola.models.boxes.assigning import NEGATIVE, Assignment


def dynamic_k(cost: Tensor, overlaps: Tensor, usable: Tensor, topk: int) -> Assignment:
    """Costs and IoU [V, N] of the `usable` cells [A] -> Assignment of all cells.

    An object takes as many cells of the lowest cost as its `topk` largest IoU sum to, at least one;
    a cell is for the object of its lowest cost.
    """
    objects = torch.full((len(usable),), NEGATIVE, device=cost.device)
    largest = overlaps.new_zeros(len(usable))
    if not len(cost):
        return Assignment(objects, largest)
    counts = overlaps.topk(min(topk, len(overlaps)), 0).values.sum(0).int().clamp(min=1)
    matched = torch.zeros_like(cost, dtype=torch.bool)
    for number, count in enumerate(counts.tolist()):
        matched[cost[:, number].topk(count, largest=False).indices, number] = True
    several = matched.sum(1) > 1
    best = torch.zeros_like(matched).scatter(1, cost.argmin(1, keepdim=True), True)
    matched = torch.where(several[:, None], best, matched)
    chosen = matched.any(1)
    index = usable.nonzero()[:, 0][chosen]
    objects[index] = matched[chosen].int().argmax(1)
    largest[index] = (matched * overlaps).sum(1)[chosen]
    return Assignment(objects, largest)
