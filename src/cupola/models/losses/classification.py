"""Classification losses."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from cupola import nn
from cupola.models.losses.reduction import weighted_mean
from cupola.registry import MODELS


@MODELS.register_module()
class CrossEntropyLoss(nn.Module):
    """Softmax (or, with use_sigmoid, binary) cross entropy times `loss_weight`.

    `class_weight` is one number per class; `bg_cls_weight` is read by DETR's head, which knows
    which class is the background.
    """

    def __init__(
        self,
        use_sigmoid: bool = False,
        class_weight: float | Sequence[float] | None = None,
        bg_cls_weight: float | None = None,
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.use_sigmoid = use_sigmoid
        self.class_weight = class_weight
        self.bg_cls_weight = bg_cls_weight
        self.loss_weight = loss_weight

    def forward(
        self,
        logits: Tensor,
        labels: Tensor,
        weight: Tensor | None = None,
        avg_factor: Tensor | float | None = None,
    ) -> Tensor:
        """logits [N, C], labels [N] int64 -> a scalar."""
        if self.use_sigmoid:
            target = F.one_hot(labels, logits.shape[-1] + 1)[..., :-1].to(logits.dtype)
            loss = F.binary_cross_entropy_with_logits(logits, target, reduction="none").sum(-1)
        else:
            loss = F.cross_entropy(logits, labels, self._class_weights(logits), reduction="none")
        return self.loss_weight * weighted_mean(loss, weight, avg_factor)

    def _class_weights(self, logits: Tensor) -> Tensor | None:
        if self.class_weight is None or isinstance(self.class_weight, (int, float)):
            return None
        return logits.new_tensor(self.class_weight)


@MODELS.register_module()
class FocalLoss(nn.Module):
    """Sigmoid focal loss (arXiv 1708.02002, equation 5) times `loss_weight`."""

    def __init__(
        self,
        use_sigmoid: bool = True,
        gamma: float = 2.0,
        alpha: float = 0.25,
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__()
        if not use_sigmoid:
            raise ValueError("FocalLoss is defined on sigmoid scores; set use_sigmoid=True")
        self.gamma = gamma
        self.alpha = alpha
        self.loss_weight = loss_weight

    def forward(
        self,
        logits: Tensor,
        labels: Tensor,
        weight: Tensor | None = None,
        avg_factor: Tensor | float | None = None,
    ) -> Tensor:
        """logits [N, C], labels [N] in 0..C with C = background -> a scalar."""
        classes = torch.arange(logits.shape[-1], device=logits.device)
        target = (labels[:, None] == classes).to(logits.dtype)
        probability = logits.sigmoid()
        miss = (1 - probability) * target + probability * (1 - target)
        balance = self.alpha * target + (1 - self.alpha) * (1 - target)
        entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
        loss = entropy * balance * miss.pow(self.gamma)
        if weight is not None and weight.dim() == 1:
            weight = weight[:, None]
        return self.loss_weight * weighted_mean(loss, weight, avg_factor)
