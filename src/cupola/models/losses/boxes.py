"""Box regression losses."""

from torch import Tensor

from cupola import nn
from cupola.models.losses.reduction import weighted_mean
from cupola.registry import MODELS
from cupola.structures.boxes import giou


@MODELS.register_module()
class L1Loss(nn.Module):
    """Absolute error times `loss_weight`."""

    def __init__(self, loss_weight: float = 1.0) -> None:
        super().__init__()
        self.loss_weight = loss_weight

    def forward(
        self,
        boxes: Tensor,
        targets: Tensor,
        weight: Tensor | None = None,
        avg_factor: Tensor | float | None = None,
    ) -> Tensor:
        """boxes and targets [N, D] -> a scalar."""
        return self.loss_weight * weighted_mean((boxes - targets).abs(), weight, avg_factor)


@MODELS.register_module()
class GIoULoss(nn.Module):
    """1 - GIoU (arXiv 1902.09630) of paired xyxy boxes times `loss_weight`."""

    def __init__(self, eps: float = 1e-6, loss_weight: float = 1.0) -> None:
        super().__init__()
        self.eps = eps
        self.loss_weight = loss_weight

    def forward(
        self,
        boxes: Tensor,
        targets: Tensor,
        weight: Tensor | None = None,
        avg_factor: Tensor | float | None = None,
    ) -> Tensor:
        """boxes and targets [N, 4], weight [N] -> a scalar."""
        loss = 1 - giou(boxes, targets, self.eps)
        return self.loss_weight * weighted_mean(loss, weight, avg_factor)
