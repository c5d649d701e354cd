"""The sine position encoding of a padded feature map."""

import math
from typing import Any

import torch
from torch import Tensor

from cupola import nn
from cupola.registry import MODELS


@MODELS.register_module()
class SinePositionalEncoding(nn.Module):
    """Sines and cosines of the y and x position of a cell within the valid part of the image.

    Always float32. Source: facebookresearch/detr models/position_encoding.py; "Attention is all
    you need" (arXiv 1706.03762), section 3.5, in two dimensions.
    """

    def __init__(
        self,
        num_feats: int,
        temperature: float = 10000,
        normalize: bool = False,
        scale: float = 2 * math.pi,
        eps: float = 1e-6,
        offset: float = 0.0,
        init_cfg: Any = None,
    ) -> None:
        super().__init__()
        self.num_feats = num_feats
        self.temperature = temperature
        self.normalize = normalize
        self.scale = scale
        self.eps = eps
        self.offset = offset

    def forward(self, mask: Tensor) -> Tensor:
        """mask [B, H, W], bool, True = padded -> [B, 2 * num_feats, H, W], y channels first."""
        valid = (~mask).to(torch.float32)
        y, x = valid.cumsum(1), valid.cumsum(2)  # [B, H, W], counting from 1
        if self.normalize:
            y = (y + self.offset) / (y[:, -1:, :] + self.eps) * self.scale
            x = (x + self.offset) / (x[:, :, -1:] + self.eps) * self.scale
        index = torch.arange(self.num_feats, dtype=torch.float32, device=mask.device)
        period = self.temperature ** (2 * (index // 2) / self.num_feats)
        encoded = torch.cat((self._waves(y, period), self._waves(x, period)), dim=3)
        return encoded.permute(0, 3, 1, 2)  # [B, 2 * num_feats, H, W]

    @staticmethod
    def _waves(position: Tensor, period: Tensor) -> Tensor:
        angle = position[..., None] / period  # [B, H, W, num_feats]
        return torch.stack((angle[..., 0::2].sin(), angle[..., 1::2].cos()), dim=4).flatten(3)
