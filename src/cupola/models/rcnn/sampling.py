"""Which proposals of an image train the heads of regions, and what they should predict.

Letters: K sampled proposals, P positive ones, which are the first.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cupola.models.boxes import with_objects

# boxes [N, 4] of an image -> logits [N, C + 1] and deltas
Predict = Callable[[Tensor], tuple[Tensor | None, Tensor | None]]


@dataclass(frozen=True)
class RoISample:
    """boxes [K, 4] of the proposals, positive ones first. objects [P]: index of the object of each.

    labels [P] and targets [P, 4] are those of the objects. own [P] marks proposals that are an
    object's own box. positive_weights [P] and negative_weights [K - P] are those of the class loss,
    where some weigh more than others.
    """

    boxes: Tensor
    objects: Tensor
    labels: Tensor
    targets: Tensor
    own: Tensor
    positive_weights: Tensor | None = None
    negative_weights: Tensor | None = None

    @property
    def positive(self) -> Tensor:
        """Boxes [P, 4] of the positive proposals."""
        return self.boxes[: len(self.objects)]


@dataclass(frozen=True)
class BoxPredictions:
    """What a box head predicts of the proposals of an image, for samplers that choose by it.

    boxes [R, 4]; labels [R], the class each should have, C for the background.
    """

    boxes: Tensor
    labels: Tensor
    head: Any
    predict: Predict

    @torch.no_grad()
    def of(self, chosen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Indices [N] of the boxes -> losses of their classes [N], logits [N, C + 1] and deltas."""
        logits, deltas = self.predict(self.boxes[chosen])
        if logits is None or deltas is None or not hasattr(self.head.loss_cls, "each"):
            raise ValueError(
                "samplers that choose by predictions need a box head with classes and deltas, and "
                f"CrossEntropyLoss or FocalLoss; loss_cls is {type(self.head.loss_cls).__name__}"
            )
        each: Tensor = self.head.loss_cls.each(logits, self.labels[chosen])
        return each.sum(1) if each.dim() > 1 else each, logits, deltas


def sample_proposals(
    proposals: Tensor,
    target: Mapping[str, Tensor],
    assigner: Any,
    sampler: Any,
    head: Any = None,
    predict: Predict | None = None,
) -> RoISample:
    """Proposals [R, 4] and objects (boxes, labels) of an image -> RoISample.

    `head` and what it does `predict` of boxes are for samplers that choose by it.
    """
    objects = target["boxes"].to(proposals)
    assignment = assigner(proposals, objects)
    added = len(objects) if sampler.add_gt_as_proposals else 0
    if added:
        proposals = torch.cat((objects, proposals))
        assignment = with_objects(assignment, added)
    if getattr(sampler, "by_prediction", False):
        assert predict is not None
        labels = _labels(assignment.objects, target["labels"], head.num_classes)
        predictions = BoxPredictions(proposals, labels, head, predict)
        assignment = assignment._replace(proposals=predictions)
    sample = sampler(assignment)
    return RoISample(
        proposals[torch.cat((sample.positive, sample.negative))],
        sample.objects,
        target["labels"][sample.objects],
        objects[sample.objects],
        sample.positive < added,
        negative_weights=sample.weights,
    )


def _labels(objects: Tensor, labels: Tensor, background: int) -> Tensor:
    """The class that each proposal should have, by the index [R] of its object."""
    if not len(labels):
        return torch.full_like(objects, background)
    return torch.where(objects >= 0, labels[objects.clamp(min=0)], background)
