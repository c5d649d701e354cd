"""Multi-head attention with positions and a residual."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from cupola import nn
from cupola.registry import MODELS


@MODELS.register_module()
class MultiheadAttention(nn.Module):
    """identity + dropout(attention(query + query_pos, key + key_pos, value)).

    Positions are added to queries and keys, never to values. `dropout` sets both the dropout of
    the attention weights and that of the result (source: mmcv/cnn/bricks/transformer.py).
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        dropout_layer: Mapping[str, Any] | None = None,
        batch_first: bool = False,
        dropout: float | None = None,
        init_cfg: Any = None,
        bias: bool = True,
    ) -> None:
        super().__init__()
        residual_drop = (dropout_layer or {}).get("drop_prob", 0.0)
        if dropout is not None:
            attn_drop = residual_drop = dropout
        self.init_cfg = init_cfg
        self.embed_dims = embed_dims
        self.num_heads = num_heads
        self.batch_first = batch_first
        self.attn = nn.MultiheadAttention(
            embed_dims, num_heads, dropout=attn_drop, bias=bias, batch_first=batch_first
        )
        self.proj_drop = nn.Dropout(proj_drop)
        self.dropout_layer = nn.Dropout(residual_drop)

    def forward(
        self,
        query: Tensor,
        key: Tensor | None = None,
        value: Tensor | None = None,
        identity: Tensor | None = None,
        query_pos: Tensor | None = None,
        key_pos: Tensor | None = None,
        attn_mask: Tensor | None = None,
        key_padding_mask: Tensor | None = None,
    ) -> Tensor:
        """[B, Q, C] (or [Q, B, C] unless batch_first) -> the same shape.

        key, value and identity default to the query, and key_pos to query_pos if the shapes
        agree. key_padding_mask [B, K] is True at padding.
        """
        if key is None:
            key = query
        if value is None:
            value = key
        if identity is None:
            identity = query
        if key_pos is None and query_pos is not None and query_pos.shape == key.shape:
            key_pos = query_pos
        if query_pos is not None:
            query = query + query_pos
        if key_pos is not None:
            key = key + key_pos
        out, _ = self.attn(
            query,
            key,
            value,
            key_padding_mask=key_padding_mask,
            attn_mask=attn_mask,
            need_weights=False,
        )
        return identity + self.dropout_layer(self.proj_drop(out))
