"""The position encodings of a feature map: sines of a padded one, and learned ones."""

import math
from typing import Any

import torch
from torch import Tensor

from cupola import nn
from cupola.models.constants import CONSTANTS, cacheable
from cupola.registry import MODELS


@MODELS.register_module()
class SinePositionalEncoding(nn.Module):
    """Sines and cosines of the y and x position of a cell within the valid part of the image.

    Always float32; on a CPU that of an image without padding is computed once for each size, and
    must not be changed in place. Source: facebookresearch/detr models/position_encoding.py;
    "Attention is all you need" (arXiv 1706.03762), section 3.5, in two dimensions.
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
        if mask.is_cuda or not cacheable(mask) or mask.any():  # a GPU would have to be waited for
            return sine_positions(self, mask)
        settings = (self.num_feats, self.temperature, self.normalize, self.scale, self.eps)
        key = ("sines", *settings, self.offset, mask.shape[1:])
        image = mask.new_zeros(1, *mask.shape[1:])
        one = CONSTANTS.get(key, mask, lambda: sine_positions(self, image))
        return one.expand(mask.shape[0], -1, -1, -1)


def sine_positions(encoding: SinePositionalEncoding, mask: Tensor) -> Tensor:
    """The encoding of any mask, computed: [B, H, W] -> [B, 2 * num_feats, H, W]."""
    valid = (~mask).to(torch.float32)
    y, x = valid.cumsum(1), valid.cumsum(2)  # [B, H, W], counting from 1
    if encoding.normalize:
        y = (y + encoding.offset) / (y[:, -1:, :] + encoding.eps) * encoding.scale
        x = (x + encoding.offset) / (x[:, :, -1:] + encoding.eps) * encoding.scale
    waves = [sine_waves(each, encoding.num_feats, encoding.temperature) for each in (y, x)]
    return torch.cat(waves, dim=3).permute(0, 3, 1, 2)  # [B, 2 * num_feats, H, W]


@MODELS.register_module()
class LearnedPositionalEncoding(nn.Module):
    """One learned vector per column and one per row of a map of at most that many.

    State keys row_embed, col_embed (source: mmdet/models/layers/positional_encoding.py).
    """

    def __init__(
        self,
        num_feats: int,
        row_num_embed: int = 50,
        col_num_embed: int = 50,
        init_cfg: Any = None,
    ) -> None:
        super().__init__()
        self.init_cfg = init_cfg
        self.num_feats = num_feats
        self.row_embed = nn.Embedding(row_num_embed, num_feats)
        self.col_embed = nn.Embedding(col_num_embed, num_feats)

    def forward(self, mask: Tensor) -> Tensor:
        """mask [B, H, W], of which only the size counts -> [B, 2 * num_feats, H, W], columns first.

        ValueError if the map has more rows or columns than there are vectors.
        """
        B, H, W = mask.shape
        rows, columns = self.row_embed.weight, self.col_embed.weight
        if len(rows) < H or len(columns) < W:
            raise ValueError(
                f"LearnedPositionalEncoding has {len(rows)} rows and {len(columns)} columns, too "
                f"few for a map of {H} x {W}; set row_num_embed and col_num_embed"
            )
        x = columns[:W].expand(H, -1, -1)  # [H, W, num_feats]
        y = rows[:H, None].expand(-1, W, -1)
        return torch.cat((x, y), -1).permute(2, 0, 1).expand(B, -1, -1, -1)


def sine_waves(position: Tensor, count: int, temperature: float = 10000) -> Tensor:
    """position [...] in radians -> `count` sines and cosines of growing period [..., count]."""
    index = torch.arange(count, dtype=torch.float32, device=position.device)
    angle = position[..., None] / temperature ** (2 * (index // 2) / count)  # [..., count]
    return torch.stack((angle[..., 0::2].sin(), angle[..., 1::2].cos()), dim=-1).flatten(-2)
