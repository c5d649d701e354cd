"""The auxiliary loss of dense queries: several queries learn from every object.

Letters: N dense queries and M objects of one image, K classes.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cupola.models.losses import GIoULoss, QualityFocalLoss
from cupola.models.matching import MatchInputs, solve_assignments
from cupola.parallel import SINGLE, Group, mean_over_ranks
from cupola.registry import TASK_UTILS
from cupola.structures import boxes as box_ops

Config = Mapping[str, Any]
CLASS_COST: Config = {"type": "FocalLossCost", "weight": 2.0}
BOX_COST: Config = {"type": "BBoxL1Cost", "weight": 5.0}
IOU_COST: Config = {"type": "IoUCost", "iou_mode": "giou", "weight": 2.0}
EPS = 1e-7  # of the best alignment of an object


class Aligned(NamedTuple):
    """object: [N] int64, -1 for none. quality: [N], how well a query fits its object, 0..1."""

    object: Tensor
    quality: Tensor


@TASK_UTILS.register_module()
class TopkHungarianAssigner:
    """Assigns `topk` queries to every object, with minimum total cost.

    The quality of a query is score**alpha * iou**beta, scaled so that the best one of an object has
    the best IoU. Source: mmdet/models/task_modules/assigners/topk_hungarian_assigner.py.
    """

    def __init__(
        self,
        topk: int = 4,
        cls_cost: Config = CLASS_COST,
        reg_cost: Config = BOX_COST,
        iou_cost: Config = IOU_COST,
        alpha: float = 1.0,
        beta: float = 6.0,
    ) -> None:
        self.topk = topk
        self.costs = [TASK_UTILS.build(cost) for cost in (cls_cost, reg_cost, iou_cost)]
        self.alpha = alpha
        self.beta = beta

    @torch.no_grad()
    def assign(self, match: MatchInputs) -> Aligned:
        """logits [N, K] and boxes [N, 4] of one image, with at least one object -> Aligned."""
        scores, labels = match.logits.sigmoid(), match.target_labels
        # The original's class cost takes the sigmoid of scores that are sigmoids already.
        twice = MatchInputs(scores, match.boxes, labels, match.target_boxes, match.image_size)
        total = sum((cost(twice) for cost in self.costs[1:]), start=self.costs[0](twice))
        copies = min(self.topk, len(scores) // len(labels))
        found = solve_assignments([total.repeat_interleave(copies, 1)])[0]
        chosen = torch.where(found >= 0, found // max(copies, 1), found)
        corners = [
            box_ops.scale(box_ops.cxcywh_to_xyxy(boxes), match.image_size)
            for boxes in (match.boxes, match.target_boxes)
        ]
        quality = scores.new_zeros(len(scores))
        for item in range(len(labels)):
            of_item = chosen == item
            overlap = box_ops.iou(corners[0][of_item], corners[1][item])
            fit = scores[of_item, labels[item]] ** self.alpha * overlap**self.beta
            if len(fit):
                quality[of_item] = fit / (fit.max() + EPS) * overlap.max()
        return Aligned(chosen, quality)


class AuxiliaryLoss:
    """aux_loss_cls and aux_loss_bbox of dense queries.

    Source: mmdet/models/losses/ddq_detr_aux_loss.py; paper, section 4.4.
    """

    def __init__(self, positives: int) -> None:
        self.assigner = TopkHungarianAssigner(positives)
        self.loss_cls = QualityFocalLoss(beta=2.0, loss_weight=1.0)
        self.loss_bbox = GIoULoss(loss_weight=2.0)

    def __call__(self, matches: Sequence[MatchInputs], group: Group = SINGLE) -> dict[str, Tensor]:
        """One MatchInputs per image, with logits [N, K] and boxes [N, 4].

        An image without objects has no loss. Both losses are divided by the mean over `group` of
        the summed quality, at least 1.
        """
        classes, boxes, total = [], [], matches[0].logits.new_zeros(())
        for match in matches:
            if not len(match.target_labels):
                classes.append(match.logits.sum() * 0)
                boxes.append(match.boxes.sum() * 0)
                continue
            aligned = self.assigner.assign(match)
            classes.append(self._class_loss(match, aligned))
            boxes.append(self._box_loss(match, aligned))
            total = total + aligned.quality.sum()
        factor = max(float(mean_over_ranks(total, group)), 1.0)
        return {
            "aux_loss_cls": torch.stack(classes).sum() / factor,
            "aux_loss_bbox": torch.stack(boxes).sum() / factor,
        }

    def _class_loss(self, match: MatchInputs, aligned: Aligned) -> Tensor:
        labels = torch.full_like(aligned.object, match.logits.shape[-1])
        positive = aligned.object >= 0
        labels[positive] = match.target_labels[aligned.object[positive]]
        loss: Tensor = self.loss_cls(match.logits, labels, avg_factor=1.0, quality=aligned.quality)
        return loss

    def _box_loss(self, match: MatchInputs, aligned: Aligned) -> Tensor:
        positive = aligned.object >= 0
        found = box_ops.cxcywh_to_xyxy(match.boxes[positive])
        wanted = box_ops.cxcywh_to_xyxy(match.target_boxes[aligned.object[positive]])
        loss: Tensor = self.loss_bbox(
            box_ops.scale(found, match.image_size),
            box_ops.scale(wanted, match.image_size),
            aligned.quality[positive],
            avg_factor=1.0,
        )
        return loss
