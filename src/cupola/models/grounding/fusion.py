"""Attention between image and text in both directions (GLIP, arXiv 2112.03857, section 3.2).

Letters: B images, S cells of the image, T tokens of the text, E channels of the attention, H heads.
Source: mmdet/models/utils/vlfuse_helper.py.
"""

import torch
from torch import Tensor

from cupola import nn

LIMIT = 50_000.0  # of attention scores, which float16 could not hold


class BiMultiHeadAttention(nn.Module):
    """One matrix of scores: image cells read the text, and tokens read the image."""

    def __init__(
        self, v_dim: int, l_dim: int, embed_dim: int, num_heads: int, dropout: float = 0.1
    ) -> None:
        super().__init__()
        if embed_dim % num_heads:
            raise ValueError(f"embed_dim {embed_dim} is not a multiple of num_heads {num_heads}")
        self.heads = num_heads
        self.scale = (embed_dim // num_heads) ** -0.5
        self.v_proj = nn.Linear(v_dim, embed_dim)
        self.l_proj = nn.Linear(l_dim, embed_dim)
        self.values_v_proj = nn.Linear(v_dim, embed_dim)
        self.values_l_proj = nn.Linear(l_dim, embed_dim)
        self.out_v_proj = nn.Linear(embed_dim, v_dim)
        self.out_l_proj = nn.Linear(embed_dim, l_dim)
        self.dropout = nn.Dropout(dropout)
        for module in self.modules():
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(
        self, image: Tensor, text: Tensor, padded_cells: Tensor | None, words: Tensor
    ) -> tuple[Tensor, Tensor]:
        """image [B, S, V], text [B, T, L] -> what each takes from the other, in its own shape.

        padded_cells [B, S] is True at padding, words [B, T] where there is a token.
        """
        query, key = self._apart(self.v_proj(image) * self.scale), self._apart(self.l_proj(text))
        scores = (query @ key.transpose(2, 3)).clamp(-LIMIT, LIMIT)  # [B, H, S, T]
        backwards = scores.transpose(2, 3)
        if padded_cells is not None:
            backwards = backwards.masked_fill(padded_cells[:, None, None], -torch.inf)
        scores = scores.masked_fill(~words[:, None, None], torch.finfo(scores.dtype).min)
        to_image = self.dropout(scores.softmax(-1)) @ self._apart(self.values_l_proj(text))
        to_text = self.dropout(backwards.softmax(-1)) @ self._apart(self.values_v_proj(image))
        return (
            self.out_v_proj(to_image.transpose(1, 2).flatten(2)),
            self.out_l_proj(to_text.transpose(1, 2).flatten(2)),
        )

    def _apart(self, x: Tensor) -> Tensor:
        """[B, N, E] -> [B, H, N, E / H]"""
        return torch.unflatten(x, -1, (self.heads, -1)).transpose(1, 2)


class BiAttention(nn.Module):
    """Both normed inputs plus what they take from each other, scaled by learned factors.

    State keys layer_norm_v, layer_norm_l, attn, gamma_v, gamma_l.
    """

    def __init__(
        self,
        v_dim: int,
        l_dim: int,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.1,
        drop_path: float = 0.0,
        init_values: float = 1e-4,
    ) -> None:
        super().__init__()
        self.layer_norm_v = nn.LayerNorm(v_dim)
        self.layer_norm_l = nn.LayerNorm(l_dim)
        self.attn = BiMultiHeadAttention(v_dim, l_dim, embed_dim, num_heads, dropout)
        self.drop_path = nn.DropPath(drop_path)
        self.gamma_v = nn.Parameter(init_values * torch.ones(v_dim))
        self.gamma_l = nn.Parameter(init_values * torch.ones(l_dim))

    def forward(
        self, image: Tensor, text: Tensor, padded_cells: Tensor | None, words: Tensor
    ) -> tuple[Tensor, Tensor]:
        """As BiMultiHeadAttention; the residuals are the normed inputs, as in the original."""
        image, text = self.layer_norm_v(image), self.layer_norm_l(text)
        to_image, to_text = self.attn(image, text, padded_cells, words)
        return (
            image + self.drop_path(self.gamma_v * to_image),
            text + self.drop_path(self.gamma_l * to_text),
        )
