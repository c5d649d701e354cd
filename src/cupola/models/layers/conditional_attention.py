"""Conditional attention: content and position are projected separately (arXiv 2108.06152, 3.3).

Letters: B images, Q queries, K keys, C channels, M heads.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cupola import nn


class ConditionalAttention(nn.Module):
    """query + dropout(attention), where a query has a content and a position part.

    Self-attention (`cross_attn` False) adds the parts. Cross-attention concatenates them in each
    head, so that content is compared with content and position with position. Its positions are
    also added to the contents where there is a `qpos_proj`; decoders remove it from all layers but
    the first, unless `keep_query_pos`.
    State keys qcontent_proj, qpos_proj, kcontent_proj, kpos_proj, v_proj, qpos_sine_proj, out_proj
    (source: mmdet/models/layers/transformer/utils.py).
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        cross_attn: bool = False,
        keep_query_pos: bool = False,
        batch_first: bool = True,
        init_cfg: Any = None,
    ) -> None:
        super().__init__()
        if not batch_first:
            raise ValueError("ConditionalAttention takes [B, Q, C]: batch_first is always True")
        if embed_dims % num_heads:
            raise ValueError(f"embed_dims {embed_dims} is not divisible by num_heads {num_heads}")
        self.init_cfg = init_cfg
        self.embed_dims = embed_dims
        self.num_heads = num_heads
        self.attn_drop = attn_drop
        self.cross_attn = cross_attn
        self.keep_query_pos = keep_query_pos
        self.proj_drop = nn.Dropout(proj_drop)
        self.qcontent_proj = nn.Linear(embed_dims, embed_dims)
        self.qpos_proj: nn.Linear | None = nn.Linear(embed_dims, embed_dims)
        self.kcontent_proj = nn.Linear(embed_dims, embed_dims)
        self.kpos_proj = nn.Linear(embed_dims, embed_dims)
        self.v_proj = nn.Linear(embed_dims, embed_dims)
        if cross_attn:
            self.qpos_sine_proj = nn.Linear(embed_dims, embed_dims)
        self.out_proj = nn.Linear(embed_dims, embed_dims)
        nn.init.zeros_(self.out_proj.bias)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        query_pos: Tensor,
        key_pos: Tensor,
        query_sine: Tensor | None = None,
        key_padding_mask: Tensor | None = None,
    ) -> Tensor:
        """query, query_pos and, in cross-attention, query_sine [B, Q, C]; key, key_pos [B, K, C].

        key_padding_mask [B, K] is True at padding. -> [B, Q, C]
        """
        q, k = self._queries_and_keys(query, key, query_pos, key_pos, query_sine)
        v = self._heads(self.v_proj(key))
        seen = (
            None if key_padding_mask is None else ~key_padding_mask[:, None, None]
        )  # [B, 1, 1, K]
        dropout = self.attn_drop if self.training else 0.0
        out = F.scaled_dot_product_attention(q, k, v, seen, dropout)  # [B, M, Q, C / M]
        return query + self.proj_drop(self.out_proj(out.transpose(1, 2).flatten(2)))

    def weights(
        self,
        query: Tensor,
        key: Tensor,
        query_pos: Tensor,
        key_pos: Tensor,
        query_sine: Tensor | None = None,
    ) -> Tensor:
        """How much each query attends to each key: [B, M, Q, K], sums to 1 over K."""
        q, k = self._queries_and_keys(query, key, query_pos, key_pos, query_sine)
        return (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)

    def _queries_and_keys(
        self,
        query: Tensor,
        key: Tensor,
        query_pos: Tensor,
        key_pos: Tensor,
        query_sine: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """[B, M, Q, D] and [B, M, K, D]; D is C / M in self-attention, twice that in cross."""
        q, k, k_pos = self.qcontent_proj(query), self.kcontent_proj(key), self.kpos_proj(key_pos)
        if self.qpos_proj is not None:
            q, k = q + self.qpos_proj(query_pos), k + k_pos
        if not self.cross_attn:
            return self._heads(q), self._heads(k)
        parts = (q, self.qpos_sine_proj(query_sine), k, k_pos)
        q, sine, k, k_pos = (self._heads(part) for part in parts)
        return torch.cat((q, sine), -1), torch.cat((k, k_pos), -1)

    def _heads(self, x: Tensor) -> Tensor:
        return torch.unflatten(x, -1, (self.num_heads, -1)).transpose(1, 2)  # [B, M, L, C / M]
