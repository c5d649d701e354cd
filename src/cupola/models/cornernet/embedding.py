"""AssociativeEmbeddingLoss: the corners of an object have the same embedding, others another.

Letters: N objects of an image, D channels.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from cupola import nn
from cupola.registry import MODELS

MARGIN = 1.0  # between the embeddings of two objects, as in section 3.3 of the paper


@MODELS.register_module()
class AssociativeEmbeddingLoss(nn.Module):
    """Pulls the corners of an object together, and pushes objects of an image apart.

    Source: CornerNet (arXiv 1808.01244), equations 4 and 5; mmdet/models/losses/ae_loss.py.
    """

    def __init__(self, pull_weight: float = 0.25, push_weight: float = 0.25) -> None:
        super().__init__()
        self.pull_weight, self.push_weight = pull_weight, push_weight

    def forward(self, first: Sequence[Tensor], second: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Embeddings [N, D] of both corners for every image -> the two losses, summed."""
        pull = push = torch.stack([each.sum() * 0 for each in (*first, *second)]).sum()
        for one, other in zip(first, second, strict=True):
            count = len(one)
            if not count:
                continue
            mean = (one + other) / 2
            pull = pull + ((one - mean).square() + (other - mean).square()).sum() / count
            if count > 1:
                away = (mean[:, None] - mean).sum(-1).abs()  # [N, N]
                near = F.relu(MARGIN - away) * (1 - torch.eye(count).to(mean))
                push = push + near.sum() / (count * (count - 1))
        return self.pull_weight * pull, self.push_weight * push
