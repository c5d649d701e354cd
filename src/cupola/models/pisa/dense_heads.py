"""RetinaHead and SSDHead whose positive anchors weigh as much as they matter.

Letters: B images, S anchors, C classes, P positive anchors of the batch.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from cupola.models.dense import AnchorHead
from cupola.models.dense.targets import AnchorTargets
from cupola.models.losses import SmoothL1Loss
from cupola.models.pisa.weights import Positives, check_box_loss, numbered
from cupola.models.retinanet import RetinaHead
from cupola.models.ssd import SSDHead
from cupola.registry import MODELS


@MODELS.register_module()
class PISARetinaHead(RetinaHead):
    """train_cfg["isr"] weighs positive anchors, and train_cfg["carl"] adds loss_carl.

    Source: mmdet/models/dense_heads/pisa_retinanet_head.py.
    """

    def __init__(self, num_classes: int, in_channels: int, **options: Any) -> None:
        super().__init__(num_classes, in_channels, **options)
        check_box_loss(self)

    def losses_of(self, logits: Tensor, deltas: Tensor, wanted: AnchorTargets) -> dict[str, Tensor]:
        """loss_cls, loss_bbox and loss_carl."""
        scores = logits[wanted.positive].sigmoid()
        found = positives(self, logits, deltas, wanted, scores)
        return prime_losses(self, found, super().losses_of, logits, deltas, wanted, self.loss_bbox)


@MODELS.register_module()
class PISASSDHead(SSDHead):
    """An SSDHead with the same settings. Source: mmdet/models/dense_heads/pisa_ssd_head.py."""

    def losses_of(self, logits: Tensor, deltas: Tensor, wanted: AnchorTargets) -> dict[str, Tensor]:
        """loss_cls, loss_bbox and loss_carl."""
        scores = logits[wanted.positive].softmax(-1)
        found = positives(self, logits, deltas, wanted, scores)
        loss = SmoothL1Loss(beta=1.0)
        return prime_losses(self, found, super().losses_of, logits, deltas, wanted, loss)


def positives(
    head: AnchorHead, logits: Tensor, deltas: Tensor, wanted: AnchorTargets, scores: Tensor
) -> Positives:
    """The positive anchors, with what is predicted of them; scores [P, C or more]."""
    labels, found = wanted.labels, deltas[wanted.positive]
    losses = head.loss_cls.each(logits[wanted.positive], labels)
    weight = float(head.train_cfg.get("pos_weight", -1))
    goal = head.bbox_coder.encode(wanted.anchors, wanted.boxes)
    return Positives(
        labels,
        numbered(torch.split(wanted.objects, wanted.positive.sum(1).tolist())),
        losses.sum(1) if losses.dim() > 1 else losses,
        scores.new_full((len(labels),), weight if weight > 0 else 1.0),
        scores.gather(1, labels[:, None])[:, 0],
        head.bbox_coder.decode(wanted.anchors, found),
        head.bbox_coder.decode(wanted.anchors, goal),  # thin boxes become wider, as in the original
        found,
        goal,
    )


def prime_losses(
    head: AnchorHead,
    found: Positives,
    losses_of: Callable[[Tensor, Tensor, AnchorTargets], dict[str, Tensor]],
    logits: Tensor,
    deltas: Tensor,
    wanted: AnchorTargets,
    loss_bbox: Any,
) -> dict[str, Tensor]:
    """The losses of a head with weighted anchors, and loss_carl with `loss_bbox`."""
    if (settings := head.train_cfg.get("isr")) is not None:
        wanted = replace(wanted, weights=found.importance(**settings))
    losses = losses_of(logits, deltas, wanted)
    if (settings := head.train_cfg.get("carl")) is not None:
        losses["loss_carl"] = found.regression_loss(loss_bbox, wanted.average, **settings)
    return losses
