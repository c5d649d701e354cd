"""Which proposals of an image train the heads of regions, and what they should predict.

Letters: K sampled proposals, P positive ones, which are the first.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cupola.models.boxes import with_objects


@dataclass(frozen=True)
class RoISample:
    """boxes [K, 4] of the proposals, positive ones first. objects [P]: index of the object of each.

    labels [P] and targets [P, 4] are those of the objects. own [P] marks proposals that are an
    object's own box.
    """

    boxes: Tensor
    objects: Tensor
    labels: Tensor
    targets: Tensor
    own: Tensor

    @property
    def positive(self) -> Tensor:
        """Boxes [P, 4] of the positive proposals."""
        return self.boxes[: len(self.objects)]


def sample_proposals(
    proposals: Tensor, target: Mapping[str, Tensor], assigner: Any, sampler: Any
) -> RoISample:
    """Proposals [R, 4] and objects (boxes, labels) of an image -> RoISample."""
    objects = target["boxes"].to(proposals)
    assignment = assigner(proposals, objects)
    added = len(objects) if sampler.add_gt_as_proposals else 0
    if added:
        proposals = torch.cat((objects, proposals))
        assignment = with_objects(assignment, added)
    sample = sampler(assignment)
    return RoISample(
        proposals[torch.cat((sample.positive, sample.negative))],
        sample.objects,
        target["labels"][sample.objects],
        objects[sample.objects],
        sample.positive < added,
    )
