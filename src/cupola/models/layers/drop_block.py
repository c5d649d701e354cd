"""DropBlock (arXiv 1810.12890): random blocks of a feature map are zeros in training."""

import torch
import torch.nn.functional as F
from torch import Tensor

from cupola import nn
from cupola.registry import MODELS

EPS = 1e-6


@MODELS.register_module()
class DropBlock(nn.Module):
    """x [B, C, H, W] -> the same with blocks of block_size x block_size zeroed, scaled to its mean.

    The probability grows from 0 over the first `warmup_iters` calls. The identity in evaluation.
    """

    def __init__(self, drop_prob: float, block_size: int, warmup_iters: int = 2000) -> None:
        super().__init__()
        if block_size % 2 == 0 or not 0 < drop_prob <= 1:
            raise ValueError(
                f"DropBlock needs an odd block_size and a drop_prob in 0..1, got {block_size} "
                f"and {drop_prob}"
            )
        self.drop_prob = drop_prob
        self.block_size = block_size
        self.warmup_iters = warmup_iters
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        self.calls += 1
        B, C, H, W = x.shape
        size = self.block_size
        h, w = H - size + 1, W - size + 1  # places of whole blocks
        rate = self.drop_prob * H * W / (h * w * size**2)
        if self.calls <= self.warmup_iters:
            rate *= self.calls / self.warmup_iters
        centers = torch.bernoulli(x.new_full((B, C, h, w), min(rate, 1.0)))
        dropped = F.max_pool2d(F.pad(centers, [size // 2] * 4), size, 1, padding=size // 2)
        kept = 1 - dropped
        return x * kept * (kept.numel() / (EPS + kept.sum()))
