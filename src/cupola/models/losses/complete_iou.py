"""CIoULoss: overlap, distance of the centers, and shape of boxes (arXiv 2005.03572)."""

import math

import torch
from torch import Tensor

from cupola import nn
from cupola.models.losses.reduction import check_reduction, weighted_mean
from cupola.registry import MODELS


@MODELS.register_module()
class CIoULoss(nn.Module):
    """1 - CIoU of paired xyxy boxes times `loss_weight`.

    The shape counts from an IoU of 0.5 on. Source: mmdet/models/losses/iou_loss.py.
    """

    def __init__(
        self, eps: float = 1e-6, reduction: str = "mean", loss_weight: float = 1.0
    ) -> None:
        super().__init__()
        check_reduction(reduction)
        self.eps, self.loss_weight = eps, loss_weight

    def forward(
        self,
        boxes: Tensor,
        targets: Tensor,
        weight: Tensor | None = None,
        avg_factor: Tensor | float | None = None,
    ) -> Tensor:
        """boxes and targets [N, 4], weight [N] -> a scalar."""
        loss = 1 - complete_iou(boxes, targets, self.eps).clamp(-1, 1)
        return self.loss_weight * weighted_mean(loss, weight, avg_factor)


def complete_iou(boxes: Tensor, targets: Tensor, eps: float) -> Tensor:
    """Equations 4 to 9 of the paper: boxes and targets [N, 4], xyxy -> [N]."""
    (low, high), (goal_low, goal_high) = boxes.chunk(2, 1), targets.chunk(2, 1)
    side, goal = high - low, goal_high - goal_low
    common = (torch.minimum(high, goal_high) - torch.maximum(low, goal_low)).clamp(min=0).prod(1)
    overlap = common / (side.prod(1) + goal.prod(1) - common + eps)
    around = (torch.maximum(high, goal_high) - torch.minimum(low, goal_low)).clamp(min=0)
    shift = (low + high - goal_low - goal_high).square().sum(1) / 4
    distance = shift / (around.square().sum(1) + eps)
    angles = [(each[:, 0] / (each[:, 1] + eps)).atan() for each in (goal, side)]
    shape = 4 / math.pi**2 * (angles[0] - angles[1]).square()
    with torch.no_grad():
        factor = (overlap > 0.5) * shape / (1 - overlap + shape).clamp(min=1e-12)
    return overlap - distance - factor * shape
