"""Which of the assigned anchors or proposals train: all, or some drawn at random."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from cupola.models.boxes.assigning import NEGATIVE, Assignment
from cupola.registry import TASK_UTILS


class Sample(NamedTuple):
    """positive [P] and negative [M]: indices, in ascending order. objects [P]: of the positive.

    weights [M] are those of the negatives in the class loss, 1 where there are none.
    """

    positive: Tensor
    negative: Tensor
    objects: Tensor
    weights: Tensor | None = None


@TASK_UTILS.register_module()
class PseudoSampler:
    """Takes all; losses are divided by the number of positive anchors."""

    counts_negative = False
    add_gt_as_proposals = False

    def __init__(self, **settings: Any) -> None:
        pass

    def __call__(self, assignment: Assignment) -> Sample:
        """Assignment -> Sample."""
        objects = assignment.objects
        positive = (objects >= 0).nonzero()[:, 0]
        return Sample(positive, (objects == NEGATIVE).nonzero()[:, 0], objects[positive])


@TASK_UTILS.register_module()
class RandomSampler:
    """At most `num`, of which at most the part `pos_fraction` is positive.

    At most `neg_pos_ub` negatives for each positive, where it is not negative itself. With
    `add_gt_as_proposals` objects' own boxes are proposals, too. Draws from torch's generator.
    Source: mmdet/models/task_modules/samplers/random_sampler.py.
    """

    counts_negative = True

    def __init__(
        self,
        num: int,
        pos_fraction: float,
        neg_pos_ub: float = -1,
        add_gt_as_proposals: bool = True,
    ) -> None:
        self.num, self.pos_fraction, self.neg_pos_ub = num, pos_fraction, neg_pos_ub
        self.add_gt_as_proposals = add_gt_as_proposals

    def __call__(self, assignment: Assignment) -> Sample:
        """Assignment -> Sample."""
        positive = self.positive(assignment, int(self.num * self.pos_fraction))
        negative = self.negative(assignment, self.rest(len(positive)))
        return Sample(positive, negative, assignment.objects[positive])

    def rest(self, positive: int) -> int:
        """How many negatives there may be, next to that many positives."""
        rest = self.num - positive
        if self.neg_pos_ub >= 0:
            rest = min(rest, int(self.neg_pos_ub * max(1, positive)))
        return rest

    def positive(self, assignment: Assignment, count: int) -> Tensor:
        """At most `count` of the positives, in ascending order."""
        return drawn((assignment.objects >= 0).nonzero()[:, 0], count)

    def negative(self, assignment: Assignment, count: int) -> Tensor:
        """At most `count` of the negatives, in ascending order."""
        return drawn((assignment.objects == NEGATIVE).nonzero()[:, 0], count)


def drawn(indices: Tensor, count: int) -> Tensor:
    """At most `count` of the indices, drawn without repetition, in ascending order."""
    if len(indices) <= count:
        return indices
    chosen = torch.randperm(len(indices))[:count].to(indices.device)
    return indices[chosen].sort().values


def with_objects(assignment: Assignment, count: int) -> Assignment:
    """The assignment after the boxes of `count` objects were put before the proposals."""
    objects, overlaps = assignment[:2]
    own = torch.arange(count, device=objects.device)
    return Assignment(torch.cat((own, objects)), torch.cat((overlaps.new_ones(count), overlaps)))
