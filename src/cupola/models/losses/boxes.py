"""Box regression losses."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from cupola import nn
from cupola.models.losses.reduction import check_reduction, weighted_mean
from cupola.registry import MODELS
from cupola.structures.boxes import giou, iou


@MODELS.register_module()
class L1Loss(nn.Module):
    """Absolute error times `loss_weight`."""

    def __init__(self, loss_weight: float = 1.0, reduction: str = "mean") -> None:
        super().__init__()
        check_reduction(reduction)
        self.loss_weight = loss_weight

    def forward(
        self,
        boxes: Tensor,
        targets: Tensor,
        weight: Tensor | None = None,
        avg_factor: Tensor | float | None = None,
    ) -> Tensor:
        """boxes and targets [N, D] -> a scalar."""
        return weighted_mean(self.each(boxes, targets), weight, avg_factor)

    def each(self, boxes: Tensor, targets: Tensor) -> Tensor:
        """The losses of all numbers, times `loss_weight`."""
        return self.loss_weight * (boxes - targets).abs()


@MODELS.register_module()
class SmoothL1Loss(nn.Module):
    """Half the squared error over `beta` below `beta`, |error| - beta / 2 above; * `loss_weight`.

    Source: Fast R-CNN (arXiv 1504.08083), equation 3, where beta is 1.
    """

    def __init__(
        self, beta: float = 1.0, reduction: str = "mean", loss_weight: float = 1.0
    ) -> None:
        super().__init__()
        check_reduction(reduction)
        if beta <= 0:
            raise ValueError(f"SmoothL1Loss beta is {beta!r}; it should be positive")
        self.beta = beta
        self.loss_weight = loss_weight

    def forward(
        self,
        boxes: Tensor,
        targets: Tensor,
        weight: Tensor | None = None,
        avg_factor: Tensor | float | None = None,
    ) -> Tensor:
        """boxes and targets [N, D] -> a scalar."""
        return weighted_mean(self.each(boxes, targets), weight, avg_factor)

    def each(self, boxes: Tensor, targets: Tensor) -> Tensor:
        """The losses of all numbers, times `loss_weight`."""
        loss = F.smooth_l1_loss(boxes, targets, reduction="none", beta=self.beta)
        return self.loss_weight * loss


@MODELS.register_module()
class BalancedL1Loss(nn.Module):
    """A smooth L1 loss with larger gradients of small errors, times `loss_weight`.

    With a `beta` of 1 the gradient is alpha * log(b * error + 1) below it, and `gamma` above.
    Source: Libra R-CNN (arXiv 1904.02701), equations 7 to 10.
    """

    def __init__(
        self,
        alpha: float = 0.5,
        gamma: float = 1.5,
        beta: float = 1.0,
        reduction: str = "mean",
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__()
        check_reduction(reduction)
        if beta <= 0 or alpha <= 0:
            raise ValueError(f"BalancedL1Loss alpha and beta are positive, got {alpha} and {beta}")
        self.alpha, self.gamma, self.beta = alpha, gamma, beta
        self.loss_weight = loss_weight

    def forward(
        self,
        boxes: Tensor,
        targets: Tensor,
        weight: Tensor | None = None,
        avg_factor: Tensor | float | None = None,
    ) -> Tensor:
        """boxes and targets [N, D] -> a scalar."""
        error, b = (boxes - targets).abs(), math.expm1(self.gamma / self.alpha)
        slope = (b * error / self.beta + 1).log()
        small = self.alpha / b * (b * error + 1) * slope - self.alpha * error
        large = self.gamma * error + self.gamma / b - self.alpha * self.beta
        loss = torch.where(error < self.beta, small, large)
        return self.loss_weight * weighted_mean(loss, weight, avg_factor)


@MODELS.register_module()
class GIoULoss(nn.Module):
    """1 - GIoU (arXiv 1902.09630) of paired xyxy boxes times `loss_weight`."""

    def __init__(
        self, eps: float = 1e-6, loss_weight: float = 1.0, reduction: str = "mean"
    ) -> None:
        super().__init__()
        check_reduction(reduction)
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
        return self.loss_weight * weighted_mean(self.each(boxes, targets), weight, avg_factor)

    def each(self, boxes: Tensor, targets: Tensor) -> Tensor:
        """The losses [N] without weights."""
        return 1 - giou(boxes, targets, self.eps)


@MODELS.register_module()
class IoULoss(nn.Module):
    """-log(IoU) of paired xyxy boxes (arXiv 1608.01471) times `loss_weight`.

    `mode` "linear" is 1 - IoU, "square" 1 - IoU^2. Source: mmdet/models/losses/iou_loss.py.
    """

    def __init__(
        self,
        linear: bool = False,
        eps: float = 1e-6,
        reduction: str = "mean",
        loss_weight: float = 1.0,
        mode: str = "log",
    ) -> None:
        super().__init__()
        check_reduction(reduction)
        if mode not in ("log", "linear", "square"):
            raise ValueError(f"IoULoss mode is 'log', 'linear' or 'square', got {mode!r}")
        self.mode = "linear" if linear else mode
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
        return self.loss_weight * weighted_mean(self.each(boxes, targets), weight, avg_factor)

    def each(self, boxes: Tensor, targets: Tensor) -> Tensor:
        """The losses [N] without weights."""
        overlap = iou(boxes, targets).clamp(min=self.eps)
        if self.mode == "log":
            return -torch.log(overlap)
        return 1 - (overlap if self.mode == "linear" else overlap**2)


@MODELS.register_module()
class MSELoss(nn.Module):
    """Squared error times `loss_weight`."""

    def __init__(self, reduction: str = "mean", loss_weight: float = 1.0) -> None:
        super().__init__()
        check_reduction(reduction)
        self.loss_weight = loss_weight

    def forward(
        self,
        values: Tensor,
        targets: Tensor,
        weight: Tensor | None = None,
        avg_factor: Tensor | float | None = None,
    ) -> Tensor:
        """values and targets of one shape -> a scalar."""
        return self.loss_weight * weighted_mean((values - targets).square(), weight, avg_factor)


@MODELS.register_module()
class BoundedIoULoss(nn.Module):
    """A smooth L1 loss of bounds of the IoU for each of center and sides (arXiv 1711.00164).

    Source: mmdet/models/losses/iou_loss.py.
    """

    def __init__(
        self,
        beta: float = 0.2,
        eps: float = 1e-3,
        reduction: str = "mean",
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__()
        check_reduction(reduction)
        self.beta, self.eps, self.loss_weight = beta, eps, loss_weight

    def forward(
        self,
        boxes: Tensor,
        targets: Tensor,
        weight: Tensor | None = None,
        avg_factor: Tensor | float | None = None,
    ) -> Tensor:
        """boxes and targets [N, 4], xyxy, weight [N] or [N, 4] -> a scalar."""
        (center, side), (goal, size) = (
            ((each[:, :2] + each[:, 2:]) / 2, each[:, 2:] - each[:, :2])
            for each in (boxes, targets.detach())
        )
        off = 2 * (goal - center).abs()
        places = 1 - ((size - off) / (size + off + self.eps)).clamp(min=0)
        sizes = 1 - torch.minimum(size / (side + self.eps), side / (size + self.eps))
        miss = torch.cat((places, sizes), 1)
        loss = torch.where(miss < self.beta, 0.5 * miss**2 / self.beta, miss - 0.5 * self.beta)
        if weight is not None and weight.dim() == 1:
            weight = weight[:, None]
        return self.loss_weight * weighted_mean(loss, weight, avg_factor)
