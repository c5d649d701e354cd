"""Classification losses."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from cupola import nn
from cupola.models.losses.reduction import check_reduction, weighted_mean
from cupola.registry import MODELS


@MODELS.register_module()
class CrossEntropyLoss(nn.Module):
    """Softmax (or, with use_sigmoid, binary) cross entropy times `loss_weight`.

    `class_weight` holds one number per class. `use_mask` is the binary kind for masks. Labels that
    are `ignore_index` have no loss, and with `avg_non_ignore` do not count in the mean.
    """

    def __init__(
        self,
        use_sigmoid: bool = False,
        class_weight: Sequence[float] | None = None,
        loss_weight: float = 1.0,
        reduction: str = "mean",
        use_mask: bool = False,
        ignore_index: int | None = None,
        avg_non_ignore: bool = False,
    ) -> None:
        super().__init__()
        check_reduction(reduction)
        self.use_sigmoid = use_sigmoid or use_mask
        self.ignore_index = -100 if ignore_index is None else ignore_index
        self.avg_non_ignore = avg_non_ignore
        self.class_weight = class_weight
        self.loss_weight = loss_weight

    def forward(
        self,
        logits: Tensor,
        labels: Tensor,
        weight: Tensor | None = None,
        avg_factor: Tensor | float | None = None,
    ) -> Tensor:
        """logits [N, C, ...], labels [N, ...] int64 -> a scalar.

        With use_sigmoid labels may also be targets 0..1 in the shape of the logits.
        """
        if not self.use_sigmoid and avg_factor is None and self.avg_non_ignore:
            avg_factor = (labels != self.ignore_index).sum()
        return self.loss_weight * weighted_mean(self.each(logits, labels), weight, avg_factor)

    def each(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The losses [N, ...] without weights, with targets 0..1 those of all logits."""
        if self.use_sigmoid and labels.is_floating_point():
            return F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
        if self.use_sigmoid:
            target = F.one_hot(labels, logits.shape[-1] + 1)[..., :-1].to(logits.dtype)
            return F.binary_cross_entropy_with_logits(logits, target, reduction="none").sum(-1)
        each = None if self.class_weight is None else logits.new_tensor(self.class_weight)
        ignored = self.ignore_index
        return F.cross_entropy(logits, labels, each, ignore_index=ignored, reduction="none")


@MODELS.register_module()
class FocalLoss(nn.Module):
    """Sigmoid focal loss (arXiv 1708.02002, equation 5) times `loss_weight`.

    With `activated` it takes scores instead of logits.
    """

    use_sigmoid = True

    def __init__(
        self,
        use_sigmoid: bool = True,
        gamma: float = 2.0,
        alpha: float = 0.25,
        loss_weight: float = 1.0,
        reduction: str = "mean",
        activated: bool = False,
    ) -> None:
        super().__init__()
        check_reduction(reduction)
        if not use_sigmoid:
            raise ValueError("FocalLoss is defined on sigmoid scores; set use_sigmoid=True")
        self.activated = activated
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
        """logits [N, C], labels [N] in 0..C with C = background -> a scalar.

        Labels may also be targets 0..1 in the shape of the logits.
        """
        loss = self.each(logits, labels)
        if weight is not None and weight.dim() < loss.dim():
            weight = weight[:, None]
        return self.loss_weight * weighted_mean(loss, weight, avg_factor)

    def each(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The losses [N, C] without weights."""
        if labels.is_floating_point():
            target = labels.to(logits.dtype)
        else:
            classes = torch.arange(logits.shape[-1], device=logits.device)
            target = (labels[:, None] == classes).to(logits.dtype)
        probability, entropy = _entropy(logits, target, self.activated)
        miss = (1 - probability) * target + probability * (1 - target)
        balance = self.alpha * target + (1 - self.alpha) * (1 - target)
        return entropy * balance * miss.pow(self.gamma)


@MODELS.register_module()
class QualityFocalLoss(nn.Module):
    """Sigmoid focal loss towards a soft target (arXiv 2006.04388, equation 3) times `loss_weight`.

    The target of an object's class is the quality of its box, that of all other classes is 0. With
    `activated` it takes scores instead of logits.
    """

    use_sigmoid = True

    def __init__(
        self,
        use_sigmoid: bool = True,
        beta: float = 2.0,
        loss_weight: float = 1.0,
        reduction: str = "mean",
        activated: bool = False,
    ) -> None:
        super().__init__()
        check_reduction(reduction)
        if not use_sigmoid:
            raise ValueError("QualityFocalLoss is defined on sigmoid scores; set use_sigmoid=True")
        self.beta, self.activated = beta, activated
        self.loss_weight = loss_weight

    def forward(
        self,
        logits: Tensor,
        labels: Tensor,
        weight: Tensor | None = None,
        avg_factor: Tensor | float | None = None,
        *,
        quality: Tensor,
    ) -> Tensor:
        """logits [N, C], labels [N] in 0..C (C = background), quality [N] in 0..1 -> a scalar."""
        classes = torch.arange(logits.shape[-1], device=logits.device)
        target = (labels[:, None] == classes) * quality[:, None].to(logits.dtype)  # [N, C]
        probability, entropy = _entropy(logits, target, self.activated)
        loss = (entropy * (target - probability).abs().pow(self.beta)).sum(-1)
        return self.loss_weight * weighted_mean(loss, weight, avg_factor)


@MODELS.register_module()
class VarifocalLoss(nn.Module):
    """Binary cross entropy towards IoUs (arXiv 2008.13367, equation 2) times `loss_weight`.

    Targets above 0 weigh as much as they are (all the same without `iou_weighted`), others
    `alpha` * score^gamma.
    """

    use_sigmoid = True

    def __init__(
        self,
        use_sigmoid: bool = True,
        alpha: float = 0.75,
        gamma: float = 2.0,
        iou_weighted: bool = True,
        reduction: str = "mean",
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__()
        check_reduction(reduction)
        if not use_sigmoid:
            raise ValueError("VarifocalLoss is defined on sigmoid scores; set use_sigmoid=True")
        self.alpha, self.gamma, self.iou_weighted = alpha, gamma, iou_weighted
        self.loss_weight = loss_weight

    def forward(
        self,
        logits: Tensor,
        targets: Tensor,
        weight: Tensor | None = None,
        avg_factor: Tensor | float | None = None,
    ) -> Tensor:
        """logits and targets [N, C] -> a scalar."""
        positive = targets if self.iou_weighted else torch.ones_like(targets)
        miss = self.alpha * (logits.sigmoid() - targets).abs().pow(self.gamma)
        focus = torch.where(targets > 0, positive, miss)
        loss = F.binary_cross_entropy_with_logits(logits, targets, reduction="none") * focus
        return self.loss_weight * weighted_mean(loss, weight, avg_factor)


def _entropy(logits: Tensor, target: Tensor, activated: bool) -> tuple[Tensor, Tensor]:
    """Scores and binary cross entropies of logits, or of what are scores already."""
    if activated:
        return logits, F.binary_cross_entropy(logits, target, reduction="none")
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return logits.sigmoid(), entropy
