"""Losses as modules. Source: torch.nn.modules.loss.

``reduction`` is "mean", "sum" or "none"; where a loss takes ``weight`` it weighs the classes and is
a buffer.
"""

from collections.abc import Callable
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor
from torch.nn._reduction import legacy_get_string as legacy_reduction

from cupola.nn.module import Module


class Loss(Module):
    """What losses share: a function, the attributes that it takes, how its values are reduced."""

    function: ClassVar[Callable[..., Tensor]]
    settings: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__()
        if size_average is not None or reduce is not None:
            reduction = legacy_reduction(size_average, reduce)
        self.reduction = reduction

    def forward(self, *tensors: Tensor, **named: Tensor) -> Tensor:
        """Return the loss of an input and a target, in the order of the function's arguments."""
        settings = {name: getattr(self, name) for name in self.settings}
        return type(self).function(*tensors, **named, reduction=self.reduction, **settings)


class WeightedLoss(Loss):
    """A loss with a weight [C] for each class."""

    weight: Tensor | None

    def __init__(
        self,
        weight: Tensor | None = None,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__(size_average, reduce, reduction)
        self.register_buffer("weight", weight)


class L1Loss(Loss):
    """|input - target|."""

    function = staticmethod(F.l1_loss)


class MSELoss(Loss):
    """(input - target)^2."""

    function = staticmethod(F.mse_loss)


class SmoothL1Loss(Loss):
    """Squared below beta, linear above (Girshick 2015)."""

    function = staticmethod(F.smooth_l1_loss)
    settings = ("beta",)

    def __init__(
        self,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
        beta: float = 1.0,
    ) -> None:
        super().__init__(size_average, reduce, reduction)
        self.beta = beta


class HuberLoss(Loss):
    """delta times :class:`SmoothL1Loss`."""

    function = staticmethod(F.huber_loss)
    settings = ("delta",)

    def __init__(
        self,
        reduction: str = "mean",
        delta: float = 1.0,
    ) -> None:
        if not isinstance(delta, (float, int)):
            raise TypeError(f"delta must be a float or int, got: {type(delta)}")
        super().__init__(reduction=reduction)
        self.delta = delta


class CrossEntropyLoss(WeightedLoss):
    """-log softmax(input)[target]. input: [N, C, *]; target: [N, *] classes or [N, C, *] shares."""

    function = staticmethod(F.cross_entropy)
    settings = ("weight", "ignore_index", "label_smoothing")

    def __init__(
        self,
        weight: Tensor | None = None,
        size_average: bool | None = None,
        ignore_index: int = -100,
        reduce: bool | None = None,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(weight, size_average, reduce, reduction)
        self.ignore_index = ignore_index
        self.label_smoothing = label_smoothing


class NLLLoss(WeightedLoss):
    """-input[target] of log probabilities [N, C, *]."""

    function = staticmethod(F.nll_loss)
    settings = ("weight", "ignore_index")

    def __init__(
        self,
        weight: Tensor | None = None,
        size_average: bool | None = None,
        ignore_index: int = -100,
        reduce: bool | None = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__(weight, size_average, reduce, reduction)
        self.ignore_index = ignore_index


class BCELoss(WeightedLoss):
    """Cross entropy of probabilities 0..1 against targets 0..1."""

    function = staticmethod(F.binary_cross_entropy)
    settings = ("weight",)


class BCEWithLogitsLoss(Loss):
    """:class:`BCELoss` of sigmoid(input), in a stable form."""

    function = staticmethod(F.binary_cross_entropy_with_logits)
    settings = ("weight", "pos_weight")

    weight: Tensor | None
    pos_weight: Tensor | None

    def __init__(
        self,
        weight: Tensor | None = None,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
        pos_weight: Tensor | None = None,
    ) -> None:
        super().__init__(size_average, reduce, reduction)
        self.register_buffer("weight", weight)
        self.register_buffer("pos_weight", pos_weight)


class KLDivLoss(Loss):
    """Kullback-Leibler divergence of log probabilities from a target."""

    function = staticmethod(F.kl_div)
    settings = ("log_target",)

    def __init__(
        self,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
        log_target: bool = False,
    ) -> None:
        super().__init__(size_average, reduce, reduction)
        self.log_target = log_target


class PoissonNLLLoss(Loss):
    """Negative log likelihood of a Poisson distribution."""

    function = staticmethod(F.poisson_nll_loss)
    settings = ("log_input", "full", "eps")

    def __init__(
        self,
        log_input: bool = True,
        full: bool = False,
        size_average: bool | None = None,
        eps: float = 1e-8,
        reduce: bool | None = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__(size_average, reduce, reduction)
        self.log_input = log_input
        self.full = full
        self.eps = eps

    def forward(  # type: ignore[override]
        self, log_input: Tensor, target: Tensor
    ) -> Tensor:
        """Return the loss; ``log_input`` is the name of a setting too."""
        return super().forward(log_input, target)


class GaussianNLLLoss(Loss):
    """Negative log likelihood of a normal distribution."""

    function = staticmethod(F.gaussian_nll_loss)
    settings = ("full", "eps")

    def __init__(
        self,
        *,
        full: bool = False,
        eps: float = 1e-6,
        reduction: str = "mean",
    ) -> None:
        super().__init__(reduction=reduction)
        self.full = full
        self.eps = eps


class HingeEmbeddingLoss(Loss):
    """input where target is 1, max(0, margin - input) where it is -1."""

    function = staticmethod(F.hinge_embedding_loss)
    settings = ("margin",)

    def __init__(
        self,
        margin: float = 1.0,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__(size_average, reduce, reduction)
        self.margin = margin


class SoftMarginLoss(Loss):
    """log(1 + exp(-target * input))."""

    function = staticmethod(F.soft_margin_loss)


class MultiLabelMarginLoss(Loss):
    """Hinge loss of several classes; targets are class numbers, ended by -1."""

    function = staticmethod(F.multilabel_margin_loss)


class MultiLabelSoftMarginLoss(WeightedLoss):
    """Binary cross entropy of logits, averaged over the classes."""

    function = staticmethod(F.multilabel_soft_margin_loss)
    settings = ("weight",)


class MultiMarginLoss(WeightedLoss):
    """Hinge loss of one class against the others, to the power p."""

    function = staticmethod(F.multi_margin_loss)
    settings = ("p", "margin", "weight")

    def __init__(
        self,
        p: int = 1,
        margin: float = 1.0,
        weight: Tensor | None = None,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__(weight, size_average, reduce, reduction)
        self.p = p
        self.margin = margin


class CosineEmbeddingLoss(Loss):
    """1 - cos where target is 1, max(0, cos - margin) where it is -1."""

    function = staticmethod(F.cosine_embedding_loss)
    settings = ("margin",)

    def __init__(
        self,
        margin: float = 0.0,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__(size_average, reduce, reduction)
        self.margin = margin


class MarginRankingLoss(Loss):
    """max(0, -target * (input1 - input2) + margin)."""

    function = staticmethod(F.margin_ranking_loss)
    settings = ("margin",)

    def __init__(
        self,
        margin: float = 0.0,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__(size_average, reduce, reduction)
        self.margin = margin


class TripletMarginLoss(Loss):
    """max(0, d(anchor, positive) - d(anchor, negative) + margin)."""

    function = staticmethod(F.triplet_margin_loss)
    settings = ("margin", "p", "eps", "swap")

    def __init__(
        self,
        margin: float = 1.0,
        p: float = 2.0,
        eps: float = 1e-6,
        swap: bool = False,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__(size_average, reduce, reduction)
        self.margin = margin
        self.p = p
        self.eps = eps
        self.swap = swap


class TripletMarginWithDistanceLoss(Loss):
    """:class:`TripletMarginLoss` with a distance of one's own."""

    function = staticmethod(F.triplet_margin_with_distance_loss)
    settings = ("distance_function", "margin", "swap")

    def __init__(
        self,
        *,
        distance_function: Callable[[Tensor, Tensor], Tensor] | None = None,
        margin: float = 1.0,
        swap: bool = False,
        reduction: str = "mean",
    ) -> None:
        super().__init__(reduction=reduction)
        self.distance_function = distance_function
        self.margin = margin
        self.swap = swap


class CTCLoss(Loss):
    """Connectionist temporal classification (Graves et al. 2006)."""

    function = staticmethod(F.ctc_loss)
    settings = ("blank", "zero_infinity")

    def __init__(
        self,
        blank: int = 0,
        reduction: str = "mean",
        zero_infinity: bool = False,
    ) -> None:
        super().__init__(reduction=reduction)
        self.blank = blank
        self.zero_infinity = zero_infinity
