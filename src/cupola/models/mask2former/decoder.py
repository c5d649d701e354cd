"""Mask2Former's decoder: attention to the cells within each query's mask, then among queries."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from cupola import nn
from cupola.models.layers import FFN, MultiheadAttention, build_norm

Config = Mapping[str, Any]
LAYER_NORM: Config = {"type": "LN"}


class MaskedDecoderLayer(nn.Module):
    """Masked cross-attention, self-attention and FFN, each followed by a norm.

    Source: mmdet/models/layers/transformer/mask2former_layers.py; paper (arXiv 2112.01527),
    section 3.2.
    """

    def __init__(
        self,
        self_attn_cfg: Config,
        cross_attn_cfg: Config,
        ffn_cfg: Config,
        norm_cfg: Config = LAYER_NORM,
        init_cfg: Any = None,
    ) -> None:
        super().__init__()
        self.self_attn = MultiheadAttention(**{**self_attn_cfg, "batch_first": True})
        self.cross_attn = MultiheadAttention(**{**cross_attn_cfg, "batch_first": True})
        self.embed_dims = self.self_attn.embed_dims
        self.ffn = FFN(**ffn_cfg)
        self.norms = nn.ModuleList(build_norm(norm_cfg, self.embed_dims) for _ in range(3))

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        query_pos: Tensor,
        key_pos: Tensor,
        attn_mask: Tensor,
    ) -> Tensor:
        """query, query_pos [B, Q, C]; key, value, key_pos [B, K, C] -> [B, Q, C].

        attn_mask [B * heads, Q, K] is True where a query does not attend.
        """
        query = self.cross_attn(
            query, key, value, query_pos=query_pos, key_pos=key_pos, attn_mask=attn_mask
        )
        query = self.norms[0](query)
        query = self.self_attn(query, query, query, query_pos=query_pos, key_pos=query_pos)
        return self.norms[2](self.ffn(self.norms[1](query)))


class Mask2FormerTransformerDecoder(nn.Module):
    """The layers, which the head runs one at a time, and the norm before every prediction."""

    def __init__(
        self,
        num_layers: int,
        layer_cfg: Config,
        post_norm_cfg: Config = LAYER_NORM,
        return_intermediate: bool = True,
        init_cfg: Any = None,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(MaskedDecoderLayer(**layer_cfg) for _ in range(num_layers))
        self.embed_dims: int = self.layers[0].embed_dims
        self.post_norm = build_norm(post_norm_cfg, self.embed_dims)
