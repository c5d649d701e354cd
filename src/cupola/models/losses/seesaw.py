"""SeesawLoss (arXiv 2008.10032): rare classes suffer less from the negatives of common ones.

Letters: N samples, C classes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from cupola import nn
from cupola.models.losses.reduction import check_reduction, weighted_mean
from cupola.registry import MODELS


@MODELS.register_module()
class SeesawLoss(nn.Module):
    """Cross entropy over classes with seesaw weights, and one over object or background.

    Logits are of C classes, then object and background. `cum_samples` counts the samples of every
    class that were seen. Source: mmdet/models/losses/seesaw_loss.py.
    """

    cum_samples: Tensor

    def __init__(
        self,
        use_sigmoid: bool = False,
        p: float = 0.8,
        q: float = 2.0,
        num_classes: int = 1203,
        eps: float = 1e-2,
        reduction: str = "mean",
        loss_weight: float = 1.0,
        return_dict: bool = True,
    ) -> None:
        super().__init__()
        check_reduction(reduction)
        if use_sigmoid:
            raise ValueError("SeesawLoss is defined on softmax scores; set use_sigmoid=False")
        self.p, self.q, self.eps = p, q, eps
        self.num_classes, self.loss_weight, self.return_dict = num_classes, loss_weight, return_dict
        self.register_buffer("cum_samples", torch.zeros(num_classes + 1))

    def channels(self, num_classes: int) -> int:
        """The number of logits for that many classes."""
        return num_classes + 2

    def scores(self, logits: Tensor) -> Tensor:
        """Logits [N, C + 2] -> scores [N, C + 1], the background last."""
        classes, objectness = logits[:, :-2].softmax(-1), logits[:, -2:].softmax(-1)
        return torch.cat((classes * objectness[:, :1], objectness[:, 1:]), -1)

    def forward(
        self,
        logits: Tensor,
        labels: Tensor,
        weight: Tensor | None = None,
        avg_factor: Tensor | float | None = None,
    ) -> dict[str, Tensor] | Tensor:
        """logits [N, C + 2], labels [N] in 0..C (C = background) -> two losses, or their sum."""
        self.cum_samples += torch.bincount(labels, minlength=self.num_classes + 1)
        positive = labels < self.num_classes
        weight = torch.ones_like(logits[:, 0]) if weight is None else weight
        classes = logits[:, :-2][positive]
        loss = classes.sum() * 0
        if positive.any():
            each = self._seesaw(classes, labels[positive])
            loss = self.loss_weight * weighted_mean(each, weight[positive], avg_factor)
        objectness = F.cross_entropy(logits[:, -2:], (~positive).long(), reduction="none")
        other = self.loss_weight * weighted_mean(objectness, weight, avg_factor)
        if self.return_dict:
            return {"loss_cls_objectness": other, "loss_cls_classes": loss}
        return loss + other

    def _seesaw(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Cross entropies [P] of logits [P, C], those of other classes moved by log weights."""
        factor = torch.ones_like(logits)
        if self.p > 0:  # mitigation: the weight of a class that was seen less than the label's
            seen = self.cum_samples[: self.num_classes].clamp(min=1)
            factor = factor * (seen / seen[labels, None]).clamp(max=1).pow(self.p)
        if self.q > 0:  # compensation: that of a class with a higher score
            scores = logits.detach().softmax(-1)
            own = scores.gather(1, labels[:, None]).clamp(min=self.eps)
            factor = factor * (scores / own).clamp(min=1).pow(self.q)
        other = 1 - F.one_hot(labels, self.num_classes)
        return F.cross_entropy(logits + factor.log() * other, labels, reduction="none")
