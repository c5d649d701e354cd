"""HungarianAssigner3D: the object of every query, or none."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from cupola.models.matching import MatchInputs, solve_assignments
from cupola.registry import TASK_UTILS

MATCHED_CHANNELS = 8  # velocity is not used for matching


@TASK_UTILS.register_module()
class BBox3DL1Cost:
    """Sum of absolute differences of box codes. -> [..., Q, N]"""

    def __init__(self, weight: float = 1.0) -> None:
        self.weight = weight

    def __call__(self, match: MatchInputs) -> Tensor:
        return torch.cdist(match.boxes, match.target_boxes, p=1) * self.weight


@TASK_UTILS.register_module()
class HungarianAssigner3D:
    """Focal cost of the class plus L1 cost of the code; the IoU cost is built but not used.

    Source: hungarian_assigner_3d.py.
    """

    def __init__(
        self,
        cls_cost: Mapping[str, Any],
        reg_cost: Mapping[str, Any],
        iou_cost: Mapping[str, Any] | None = None,
        pc_range: Sequence[float] | None = None,
    ) -> None:
        self.cls_cost = TASK_UTILS.build(cls_cost)
        self.reg_cost = TASK_UTILS.build(reg_cost)
        self.iou_cost = TASK_UTILS.build(iou_cost) if iou_cost else None
        self.pc_range = pc_range

    @torch.no_grad()
    def assign(
        self, matches: Sequence[MatchInputs], channels: int = MATCHED_CHANNELS
    ) -> list[Tensor]:
        """Per sample the object of every query of every layer, [L, Q] int64, -1 for background.

        The boxes of the inputs are codes, of which the first `channels` are compared. An object
        with NaN or a side of 0 has no code to compare with: a warning names it, and no query is
        matched with it.
        """
        costs, kept = [], []
        for sample, match in enumerate(matches):
            usable = _usable(match.target_boxes, sample)
            match = replace(
                match,
                boxes=match.boxes[..., :channels],
                target_labels=match.target_labels[usable],
                target_boxes=match.target_boxes[usable, :channels],
            )
            costs.append(self.cls_cost(match) + self.reg_cost(match))
            kept.append(usable)
        found = solve_assignments(costs)
        return [_renumbered(each, usable) for each, usable in zip(found, kept, strict=True)]


def _usable(codes: Tensor, sample: int) -> Tensor:
    """Indices of the codes [M, 10] that a prediction can be compared with."""
    fine = codes[:, :MATCHED_CHANNELS].isfinite().all(-1)
    if not bool(fine.all()):
        broken = (~fine).nonzero()[:, 0].tolist()
        warnings.warn(f"targets of sample {sample}: boxes {broken} have NaN or a side of 0; "
                      "they are skipped", stacklevel=4)  # fmt: skip
    return fine.nonzero()[:, 0]


def _renumbered(assigned: Tensor, usable: Tensor) -> Tensor:
    """Indices into the usable objects [L, Q] -> indices into all; -1 stays."""
    if not len(usable):
        return assigned
    return torch.where(assigned >= 0, usable[assigned.clamp(min=0)], assigned)
