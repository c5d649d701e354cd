"""The Hungarian assigner: one query per object, with minimum total cost."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cupola.models.matching.costs import MatchInputs
from cupola.registry import TASK_UTILS

Config = Mapping[str, Any]


@TASK_UTILS.register_module(["HungarianAssigner", "MaskHungarianAssigner"])
class HungarianAssigner:
    """Adds up its costs and solves the assignment with scipy.

    Accepts the arguments of MMDetection 3.x (`match_costs`, a list) and 2.x (`cls_cost`,
    `reg_cost`, `iou_cost`, and for masks `mask_cost`, `dice_cost`).
    """

    def __init__(
        self,
        match_costs: Config | Sequence[Config] | None = None,
        cls_cost: Config | None = None,
        reg_cost: Config | None = None,
        iou_cost: Config | None = None,
        mask_cost: Config | None = None,
        dice_cost: Config | None = None,
    ) -> None:
        if match_costs is None:
            named = (cls_cost, reg_cost, iou_cost, mask_cost, dice_cost)
            match_costs = [cost for cost in named if cost]
        elif isinstance(match_costs, Mapping):
            match_costs = [match_costs]
        if not match_costs:
            raise ValueError("HungarianAssigner needs at least one matching cost")
        self.costs = [TASK_UTILS.build(cost) for cost in match_costs]

    @torch.no_grad()
    def cost(self, match: MatchInputs) -> Tensor:
        """The total cost [..., Q, N]."""
        return sum((cost(match) for cost in self.costs[1:]), start=self.costs[0](match))

    def assign(self, matches: Sequence[MatchInputs]) -> list[Tensor]:
        """Per image the object of every query [..., Q], int64, -1 for background.

        The costs of all images and layers are copied to the CPU in one transfer.
        """
        return solve_assignments([self.cost(match) for match in matches])


def solve_assignments(costs: Sequence[Tensor]) -> list[Tensor]:
    """Solves each cost matrix [..., Q, N] -> [..., Q], int64: the object of a query, or -1."""
    from scipy.optimize import linear_sum_assignment  # 0.3 s to import; inference never matches

    if not costs:
        return []
    device = costs[0].device
    flat = torch.cat([cost.reshape(-1) for cost in costs]).float().cpu().numpy()
    if not np.isfinite(flat).all():
        raise FloatingPointError(
            "the matching cost is NaN or infinite: the model's logits or boxes have diverged"
        )
    solved, start = [], 0
    for cost in costs:
        queries, objects = cost.shape[-2:]
        count = math.prod(cost.shape[:-2])
        matrices = flat[start : start + cost.numel()].reshape(count, queries, objects)
        start += cost.numel()
        assigned = np.full((count, queries), -1, dtype=np.int64)
        for row, matrix in zip(assigned, matrices, strict=True):
            query, target = linear_sum_assignment(matrix)
            row[query] = target
        solved.append(torch.from_numpy(assigned).view(cost.shape[:-1]).to(device))
    return solved
