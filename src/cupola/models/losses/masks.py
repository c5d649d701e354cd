"""Losses of masks."""

from torch import Tensor

from cupola import nn
from cupola.models.losses.reduction import check_reduction, weighted_mean
from cupola.registry import MODELS


@MODELS.register_module()
class DiceLoss(nn.Module):
    """1 - Dice coefficient of paired masks times `loss_weight`.

    The denominator sums the masks with `naive_dice` and their squares (V-Net, arXiv 1606.04797)
    without; `eps` is added to numerator and denominator, or to each of the sums of squares.
    `activate` applies the sigmoid. Source: mmdet/models/losses/dice_loss.py.
    """

    def __init__(
        self,
        use_sigmoid: bool = True,
        activate: bool = True,
        reduction: str = "mean",
        naive_dice: bool = False,
        loss_weight: float = 1.0,
        eps: float = 1e-3,
    ) -> None:
        super().__init__()
        check_reduction(reduction)
        if activate and not use_sigmoid:
            raise ValueError("DiceLoss activates by sigmoid; set use_sigmoid=True")
        self.activate = activate
        self.naive_dice = naive_dice
        self.loss_weight = loss_weight
        self.eps = eps

    def forward(
        self,
        masks: Tensor,
        targets: Tensor,
        weight: Tensor | None = None,
        avg_factor: Tensor | float | None = None,
    ) -> Tensor:
        """masks and targets [N, ...], weight [N] -> a scalar."""
        masks = (masks.sigmoid() if self.activate else masks).flatten(1)
        targets = targets.flatten(1).to(masks.dtype)
        overlap = 2 * (masks * targets).sum(1)
        if self.naive_dice:
            loss = 1 - (overlap + self.eps) / (masks.sum(1) + targets.sum(1) + self.eps)
        else:
            sums = masks.square().sum(1) + targets.square().sum(1) + 2 * self.eps
            loss = 1 - overlap / sums
        return self.loss_weight * weighted_mean(loss, weight, avg_factor)
