"""What the heads of DETR and its relatives share: targets, losses per layer, and best scores.

Every decoder layer is matched with the objects on its own and has losses of its own.

Letters: L decoder layers, B images, Q queries, C class scores, D numbers of a box, N objects of
one image, P positive queries (those matched with an object).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cupola import nn
from cupola.models.losses import QualityFocalLoss
from cupola.parallel import SINGLE, Group, mean_over_ranks


@dataclass(frozen=True)
class QueryTargets:
    """What each query should predict. The leading axes are decoder layers or images.

    labels: [..., Q], int64, the number of classes for a query without an object.
    positive: [..., Q], bool. boxes: [..., Q, D], zeros for a query without an object.
    """

    labels: Tensor
    positive: Tensor
    boxes: Tensor


def query_targets(
    assigned: Tensor, labels: Tensor, boxes: Tensor, num_classes: int
) -> QueryTargets:
    """Targets [..., Q] of one image from the object of each query, -1 for none [..., Q].

    labels [N], boxes [N, D] in the form that the box loss compares.
    """
    positive = assigned >= 0
    wanted = torch.full_like(assigned, num_classes)
    wanted[positive] = labels[assigned[positive]]
    places = boxes.new_zeros(*assigned.shape, boxes.shape[-1])
    places[positive] = boxes[assigned[positive]]
    return QueryTargets(wanted, positive, places)


def targets_by_layer(images: Sequence[QueryTargets]) -> list[QueryTargets]:
    """Targets [L, Q] of every image -> targets [B, Q] of every decoder layer."""
    labels = torch.stack([each.labels for each in images], dim=1)  # [L, B, Q]
    positive = torch.stack([each.positive for each in images], dim=1)
    boxes = torch.stack([each.boxes for each in images], dim=1)  # [L, B, Q, D]
    return [QueryTargets(*each) for each in zip(labels, positive, boxes, strict=True)]


def class_loss(
    loss: nn.Module,
    logits: Tensor,
    targets: QueryTargets,
    background_weight: float = 0.0,
    group: Group = SINGLE,
    quality: Tensor | None = None,
) -> Tensor:
    """The class loss of one layer's logits [B, Q, C].

    It is divided by the mean over `group` of positives + background_weight * negatives, or by 1 if
    that is less. A QualityFocalLoss also takes `quality` [P], the IoU of each
    positive query's box with its object.
    """
    positives = targets.positive.sum().float()
    factor = positives + background_weight * (targets.positive.numel() - positives)
    settings: dict[str, Any] = {"avg_factor": max(float(mean_over_ranks(factor, group)), 1.0)}
    if isinstance(loss, QualityFocalLoss):
        if quality is None:
            raise ValueError("QualityFocalLoss needs boxes whose IoU is defined: use FocalLoss")
        scores = logits.new_zeros(targets.labels.shape)
        scores[targets.positive] = quality.to(scores.dtype)
        settings["quality"] = scores.flatten()
    result: Tensor = loss(logits.flatten(0, 1), targets.labels.flatten(), **settings)
    return result


def box_normalizer(targets: QueryTargets, group: Group = SINGLE) -> float:
    """What box losses are divided by: the mean over `group` of the positive queries, at least 1."""
    return max(float(mean_over_ranks(targets.positive.sum().float(), group)), 1.0)


def name_by_layer(losses: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The last layer's losses under their names, those of the layers before as d0., d1., ..."""
    last = len(losses) - 1
    return {
        name if layer == last else f"d{layer}.{name}": value
        for layer, each in enumerate(losses)
        for name, value in each.items()
    }


def class_scores(logits: Tensor, use_sigmoid: bool) -> Tensor:
    """Scores [..., C] of logits [..., C] by sigmoid, or of [..., C + 1] by softmax."""
    return logits.sigmoid() if use_sigmoid else logits.softmax(-1)[..., :-1]


def best_pairs(logits: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The best `count` (query, class) pairs of logits [Q, C] by sigmoid score.

    -> scores, labels and queries, best first. A query may appear with several classes.
    """
    scores, index = logits.sigmoid().flatten().topk(min(count, logits.numel()))
    classes = logits.shape[-1]
    return scores, index % classes, index // classes
