"""Samplers of Libra R-CNN (arXiv 1904.02701): equally many of each object, and of each IoU.

Source: mmdet/models/task_modules/samplers.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from cupola.models.boxes.assigning import NEGATIVE, Assignment
from cupola.models.boxes.sampling import RandomSampler, drawn
from cupola.registry import TASK_UTILS
from cupola.registry.budget import reserve


@TASK_UTILS.register_module()
class InstanceBalancedPosSampler(RandomSampler):
    """A RandomSampler that draws as many positives of each object, where there are too many."""

    def positive(self, assignment: Assignment, count: int) -> Tensor:
        """At most `count` of the positives, in ascending order."""
        every = (assignment.objects >= 0).nonzero()[:, 0]
        if len(every) <= count:
            return every
        owners: Tensor = torch.unique(assignment.objects[every])
        share = round(count / len(owners)) + 1
        chosen = [drawn((assignment.objects == each).nonzero()[:, 0], share) for each in owners]
        return _filled(torch.cat(chosen), every, count)


@TASK_UTILS.register_module()
class IoUBalancedNegSampler(RandomSampler):
    """A RandomSampler that draws as many negatives from each of `num_bins` intervals of the IoU.

    The part `floor_fraction` has an IoU below `floor_thr` (of 0: exactly 0). With a `floor_thr` of
    -1 the first draw takes the intervals from 0; the next ones go on as with 0, as the original's.
    """

    def __init__(
        self,
        num: int,
        pos_fraction: float,
        floor_thr: float = -1,
        floor_fraction: float = 0,
        num_bins: int = 3,
        **settings: Any,
    ) -> None:
        super().__init__(num, pos_fraction, **settings)
        if (floor_thr < 0 and floor_thr != -1) or not 0 <= floor_fraction <= 1 or num_bins < 1:
            raise ValueError(
                "floor_thr is -1 or at least 0, floor_fraction 0..1, and num_bins at least 1"
            )
        reserve(num_bins)
        self.floor, self.fraction, self.bins = floor_thr, floor_fraction, num_bins

    def negative(self, assignment: Assignment, count: int) -> Tensor:
        """At most `count` of the negatives, in ascending order."""
        every = (assignment.objects == NEGATIVE).nonzero()[:, 0]
        if len(every) <= count:
            return every
        overlaps = assignment.overlaps[every]
        above = overlaps >= self.floor if self.floor > 0 else overlaps > self.floor
        low = (overlaps < self.floor) if self.floor > 0 else (overlaps == 0) & (self.floor == 0)
        self.floor = max(self.floor, 0.0)
        wanted = int(count * (1 - self.fraction))
        chosen = every[above]
        if len(chosen) > wanted:
            chosen = self._by_intervals(assignment.overlaps, chosen, wanted)
        floor = drawn(every[low], count - len(chosen))
        return _filled(torch.cat((floor, chosen)), every, count)

    def _by_intervals(self, overlaps: Tensor, members: Tensor, count: int) -> Tensor:
        """`count` of the members, as many from each interval as there are."""
        width = (overlaps.max() - self.floor) / self.bins  # the largest of all
        chosen = []
        for i in range(self.bins):
            start, values = self.floor + i * width, overlaps[members]
            inside = (values >= start) & (values < start + width)
            chosen.append(drawn(members[inside], count // self.bins))
        return _filled(torch.cat(chosen), members, count)


@TASK_UTILS.register_module()
class CombinedSampler(RandomSampler):
    """Positives from one sampler, negatives from another."""

    def __init__(
        self,
        pos_sampler: Mapping[str, Any],
        neg_sampler: Mapping[str, Any],
        num: int,
        pos_fraction: float,
        **settings: Any,
    ) -> None:
        super().__init__(num, pos_fraction, **settings)
        shared = {"num": num, "pos_fraction": pos_fraction, **settings}
        self.positives = TASK_UTILS.build({**shared, **pos_sampler})
        self.negatives = TASK_UTILS.build({**shared, **neg_sampler})

    def positive(self, assignment: Assignment, count: int) -> Tensor:
        """At most `count` of the positives, in ascending order."""
        found: Tensor = self.positives.positive(assignment, count)
        return found

    def negative(self, assignment: Assignment, count: int) -> Tensor:
        """At most `count` of the negatives, in ascending order."""
        found: Tensor = self.negatives.negative(assignment, count)
        return found


def _filled(chosen: Tensor, every: Tensor, count: int) -> Tensor:
    """`count` indices: some of the chosen ones, or these and others, in ascending order."""
    if len(chosen) >= count:
        return drawn(chosen, count).sort().values
    others = every[~torch.isin(every, chosen)]
    return torch.cat((chosen, drawn(others, count - len(chosen)))).sort().values
