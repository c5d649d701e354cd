"""Dropout: random zeros in training, the identity in evaluation.

Sources: torch.nn.modules.dropout; drop path from Huang et al. 2016, as in timm.
"""

import torch.nn.functional as F
from torch import Tensor

from cupola.nn.layers.factory import Layer
from cupola.nn.module import Module


class Dropout(Layer):
    """Zero each value with probability ``p``; scale the rest by 1 / (1 - p) (Hinton et al. 2012).
    ValueError if the probability is not in 0..1."""

    def __init__(self, p: float = 0.5, inplace: bool = False) -> None:
        super().__init__()
        if not 0 <= p <= 1:
            raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}")
        self.p = p
        self.inplace = inplace

    def forward(self, input: Tensor) -> Tensor:
        """[*] -> [*]."""
        return F.dropout(input, self.p, self.training, self.inplace)


class DropPath(Module):
    """Drop whole samples of a residual branch with probability ``drop_prob``. ValueError if it is
    not in 0..1."""

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
