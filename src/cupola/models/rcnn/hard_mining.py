"""OHEMSampler: online hard example mining (arXiv 1604.03540)."""

from typing import Any

from torch import Tensor

from cupola.models.boxes import NEGATIVE, Assignment, RandomSampler
from cupola.models.rcnn.sampling import BoxPredictions
from cupola.registry import TASK_UTILS


@TASK_UTILS.register_module()
class OHEMSampler(RandomSampler):
    """A RandomSampler that takes those with the largest loss, where there are too many.

    The loss is that of the classes. Source: mmdet/models/task_modules/samplers/ohem_sampler.py.
    """

    by_prediction = True

    def __init__(
        self, num: int, pos_fraction: float, loss_key: str = "loss_cls", **settings: Any
    ) -> None:
        super().__init__(num, pos_fraction, **settings)
        if loss_key != "loss_cls":
            raise ValueError(f"OHEMSampler's loss_key is 'loss_cls', got {loss_key!r}")

    def positive(self, assignment: Assignment, count: int) -> Tensor:
        """At most `count` of the positives, in ascending order."""
        every = (assignment.objects >= 0).nonzero()[:, 0]
        return hardest(assignment.proposals, every, count)

    def negative(self, assignment: Assignment, count: int) -> Tensor:
        """At most `count` of the negatives, in ascending order."""
        every = (assignment.objects == NEGATIVE).nonzero()[:, 0]
        return hardest(assignment.proposals, every, count)


def hardest(proposals: BoxPredictions, chosen: Tensor, count: int) -> Tensor:
    """At most `count` of the indices: those with the largest losses, in ascending order."""
    if len(chosen) <= count:
        return chosen
    losses = proposals.of(chosen)[0]
    return chosen[losses.topk(count).indices].sort().values
