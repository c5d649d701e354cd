"""DETR's encoder and decoder, as in MMDetection 3.x.

B images, HW feature cells, Q queries, C channels, L decoder layers. Post-norm by default;
`pre_norm` is the variant of facebookresearch/detr, whose encoder also ends with a norm.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from cupola import nn
from cupola.models.layers import FFN, MultiheadAttention, build_norm
from cupola.registry import MODELS

Config = Mapping[str, Any]
LAYER_NORM: Config = {"type": "LN"}


class DetrTransformerEncoderLayer(nn.Module):
    """Self-attention and FFN over the feature cells."""

    def __init__(
        self,
        self_attn_cfg: Config,
        ffn_cfg: Config,
        norm_cfg: Config = LAYER_NORM,
        pre_norm: bool = False,
    ) -> None:
        super().__init__()
        self.pre_norm = pre_norm
        self.self_attn = MultiheadAttention(**{**self_attn_cfg, "batch_first": True})
        self.embed_dims = self.self_attn.embed_dims
        self.ffn = FFN(**ffn_cfg)
        self.norms = nn.ModuleList(build_norm(norm_cfg, self.embed_dims) for _ in range(2))

    def forward(
        self,
        x: Tensor,
        pos: Tensor,
        key_padding_mask: Tensor | None,
        attn_mask: Tensor | None = None,
    ) -> Tensor:
        """x, pos [B, HW, C]; key_padding_mask [B, HW], True = padded -> [B, HW, C].

        attn_mask [B * heads, HW, HW] is True where a cell (row) must not see another (column).
        """
        masks = {"key_padding_mask": key_padding_mask, "attn_mask": attn_mask}
        if self.pre_norm:
            y = self.norms[0](x)
            x = self.self_attn(y, y, y, x, pos, pos, **masks)
            return self.ffn(self.norms[1](x), x)
        x = self.self_attn(x, x, x, x, pos, pos, **masks)
        return self.norms[1](self.ffn(self.norms[0](x)))


class DetrTransformerDecoderLayer(nn.Module):
    """Self-attention among the queries, cross-attention to the memory, FFN."""

    def __init__(
        self,
        self_attn_cfg: Config,
        cross_attn_cfg: Config,
        ffn_cfg: Config,
        norm_cfg: Config = LAYER_NORM,
        pre_norm: bool = False,
    ) -> None:
        super().__init__()
        self.pre_norm = pre_norm
        self.self_attn = MultiheadAttention(**{**self_attn_cfg, "batch_first": True})
        self.cross_attn = MultiheadAttention(**{**cross_attn_cfg, "batch_first": True})
        self.embed_dims = self.self_attn.embed_dims
        self.ffn = FFN(**ffn_cfg)
        self.norms = nn.ModuleList(build_norm(norm_cfg, self.embed_dims) for _ in range(3))

    def forward(
        self,
        x: Tensor,
        query_pos: Tensor,
        key: Tensor,
        memory: Tensor,
        key_padding_mask: Tensor | None,
        groups: int = 1,
    ) -> Tensor:
        """x, query_pos [B, Q, C]; memory [B, HW, C]; key = memory + its position -> [B, Q, C].

        With several groups, Q holds one after the other; queries attend only to their own group.
        """
        if self.pre_norm:
            x = self._among_queries(self.norms[0](x), x, query_pos, groups)
            y = self.norms[1](x)
            x = self._to_memory(y + query_pos, key, memory, x, key_padding_mask)
            return self.ffn(self.norms[2](x), x)
        x = self.norms[0](self._among_queries(x, x, query_pos, groups))
        x = self._to_memory(x + query_pos, key, memory, x, key_padding_mask)
        return self.norms[2](self.ffn(self.norms[1](x)))

    def _to_memory(
        self,
        query: Tensor,
        key: Tensor,
        memory: Tensor,
        identity: Tensor,
        key_padding_mask: Tensor | None,
    ) -> Tensor:
        """Cross-attention; query and key hold their positions, so that none is added here."""
        return self.cross_attn(query, key, memory, identity, key_padding_mask=key_padding_mask)

    def _among_queries(self, x: Tensor, identity: Tensor, pos: Tensor, groups: int) -> Tensor:
        B, Q, C = x.shape
        x, identity, pos = (t.reshape(B * groups, Q // groups, C) for t in (x, identity, pos))
        return self.self_attn(x, x, x, identity, pos, pos).reshape(B, Q, C)


@MODELS.register_module()
class DetrTransformerEncoder(nn.Module):
    """num_layers encoder layers."""

    layer_class: ClassVar[type[Any]] = DetrTransformerEncoderLayer

    def __init__(self, num_layers: int, layer_cfg: Config, init_cfg: Any = None) -> None:
        super().__init__()
        self.num_layers = num_layers
        self.layers = nn.ModuleList(self.layer_class(**layer_cfg) for _ in range(num_layers))
        self.embed_dims: int = self.layers[0].embed_dims
        pre_norm = self.layers[0].pre_norm
        self.post_norm = build_norm(LAYER_NORM, self.embed_dims) if pre_norm else None

    def forward(self, x: Tensor, pos: Tensor, key_padding_mask: Tensor | None) -> Tensor:
        """x, pos [B, HW, C] -> memory [B, HW, C]."""
        for layer in self.layers:
            x = layer(x, pos, key_padding_mask)
        return x if self.post_norm is None else self.post_norm(x)


@MODELS.register_module()
class DetrTransformerDecoder(nn.Module):
    """num_layers decoder layers; the final norm is applied to the output of each."""

    layer_class: ClassVar[type[Any]] = DetrTransformerDecoderLayer

    def __init__(
        self,
        num_layers: int,
        layer_cfg: Config,
        post_norm_cfg: Config = LAYER_NORM,
        return_intermediate: bool = True,
        init_cfg: Any = None,
    ) -> None:
        super().__init__()
        self.num_layers = num_layers
        self.return_intermediate = return_intermediate
        self.layers = nn.ModuleList(self.layer_class(**layer_cfg) for _ in range(num_layers))
        self.embed_dims: int = self.layers[0].embed_dims
        self.post_norm = build_norm(post_norm_cfg, self.embed_dims)

    def forward(
        self,
        query_pos: Tensor,
        memory: Tensor,
        memory_pos: Tensor,
        key_padding_mask: Tensor | None,
        groups: int = 1,
    ) -> Tensor:
        """query_pos [B, Q, C], memory and memory_pos [B, HW, C] -> [L, B, Q, C].

        Q holds `groups` groups of queries that do not attend to each other. The input of the first
        layer is zero. The final norm is not part of what layers pass on.
        """
        x = torch.zeros_like(query_pos)
        key = memory + memory_pos  # the same for every layer
        outputs = []
        for layer in self.layers:
            x = layer(x, query_pos, key, memory, key_padding_mask, groups)
            outputs.append(x)
        if not self.return_intermediate:
            outputs = outputs[-1:]
        return self.post_norm(torch.stack(outputs))  # [L, B, Q, C]
