"""Dropout of all kinds: active in training, the identity in evaluation.

Source: torch.nn.modules.dropout; drop path: Huang et al. 2016, as timm has it.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor

from cupola.nn.module import Module


class DropoutBase(Module):
    """A probability ``p`` in 0..1 and whether to work in place.

    Raises:
        ValueError: the probability is out of range.
    """

    drop: ClassVar[Callable[..., Any]]

    def __init__(self, p: float = 0.5, inplace: bool = False) -> None:
        super().__init__()
        if not 0 <= p <= 1:
            raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}")
        self.p = p
        self.inplace = inplace

    def forward(self, input: Tensor) -> Tensor:
        """[*] -> [*]."""
        output: Tensor = type(self).drop(input, self.p, self.training, self.inplace)
        return output

    def extra_repr(self) -> str:
        return f"p={self.p}, inplace={self.inplace}"


class Dropout(DropoutBase):
    """Zero single values; scale the rest by 1 / (1 - p) (Hinton et al. 2012)."""

    drop = F.dropout


class Dropout1d(DropoutBase):
    """Zero whole channels of [N, C, L] or [C, L]."""

    drop = F.dropout1d


class Dropout2d(DropoutBase):
    """Zero whole channels of [N, C, H, W]."""

    drop = F.dropout2d


class Dropout3d(DropoutBase):
    """Zero whole channels of [N, C, D, H, W]."""

    drop = F.dropout3d


class AlphaDropout(DropoutBase):
    """Set values to SELU's negative limit; mean and variance stay (Klambauer et al. 2017)."""

    drop = F.alpha_dropout


class FeatureAlphaDropout(DropoutBase):
    """:class:`AlphaDropout` of whole channels."""

    drop = F.feature_alpha_dropout


class DropPath(Module):
    """Drop whole samples of a residual branch with probability ``drop_prob``."""

    def __init__(self, drop_prob: float = 0.0, scale_by_keep: bool = True) -> None:
        super().__init__()
        if not 0 <= drop_prob <= 1:
            raise ValueError(f"drop_prob has to be between 0 and 1, but got {drop_prob}")
        self.drop_prob = drop_prob
        self.scale_by_keep = scale_by_keep

    def forward(self, x: Tensor) -> Tensor:
        """[N, *] -> [N, *]."""
        if not self.training or self.drop_prob == 0:
            return x
        keep = 1 - self.drop_prob
        mask = x.new_empty((x.shape[0],) + (1,) * (x.dim() - 1)).bernoulli_(keep)  # [N, 1, ...]
        if self.scale_by_keep and keep > 0:
            mask.div_(keep)
        return x * mask

    def extra_repr(self) -> str:
        return f"drop_prob={self.drop_prob:g}"
