"""CenterPrior: where in an object its cells are likely to be positive.

Letters: C classes, S cells of all levels, N objects of an image.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from cupola import nn


class CenterPrior(nn.Module):
    """A Gaussian around an object's center, in strides, whose mean and width each class learns.

    With `force_topk` objects without a cell get the `topk` most likely ones.
    Source: section 3.3 of the paper; mmdet/models/dense_heads/autoassign_head.py.
    """

    def __init__(self, num_classes: int, force_topk: bool = False, topk: int = 9) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(num_classes, 2))
        self.sigma = nn.Parameter(torch.ones(num_classes, 2))
        self.force_topk, self.topk = force_topk, topk

    def forward(
        self,
        points: Sequence[Tensor],
        strides: Sequence[int],
        centers: Tensor,
        labels: Tensor,
        inside: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Points [S_i, 2] of every level, objects' centers [N, 2] and labels [N] -> weights [S, N].

        inside [S, N], bool, is whether a point is in an object's box; weights are 0 elsewhere. It
        is returned too, with the points that were forced.
        """
        weights = []
        for level, stride in zip(points, strides, strict=True):
            away = (level[:, None] - centers) / stride - self.mean[labels]  # [S_i, N, 2]
            weights.append((-away.square() / (2 * self.sigma[labels].square())).exp().prod(-1))
        weight = torch.cat(weights)
        if self.force_topk and (alone := ~inside.any(0)).any():
            best = weight[:, alone].topk(min(self.topk, len(weight)), 0).indices
            inside = inside.clone()
            inside[:, alone] = torch.zeros_like(inside[:, alone]).scatter(0, best, True)
        return weight * inside, inside
