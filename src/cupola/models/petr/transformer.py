"""The decoder of PETR and StreamPETR: all queries attend to all cells of all cameras.

Letters: L layers, B samples, Q queries, K keys, M remembered queries, C channels.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from cupola import nn
from cupola.models.layers import (
    MultiheadAttention,
    TransformerLayer,
    TransformerLayerSequence,
    build_norm,
)
from cupola.registry import MODELS


@MODELS.register_module(["PETRMultiheadAttention", "PETRMultiheadFlashAttention"])
class PETRMultiheadAttention(MultiheadAttention):
    """MultiheadAttention; `fp16` (half precision in the original's training) has no effect."""

    def __init__(self, embed_dims: int, num_heads: int, fp16: bool = False, **kwargs: Any) -> None:
        super().__init__(embed_dims, num_heads, **kwargs)


@MODELS.register_module(["PETRTransformerDecoderLayer", "PETRTemporalDecoderLayer"])
class PETRTransformerDecoderLayer(TransformerLayer):
    """A TransformerLayer whose queries also attend to remembered queries of earlier frames.

    `with_cp` (gradient checkpointing) is accepted and has no effect.
    """

    def __init__(
        self,
        attn_cfgs: Any,
        operation_order: Sequence[str],
        with_cp: bool = True,
        **settings: Any,
    ) -> None:
        super().__init__(attn_cfgs, operation_order, **settings)
        self.axis = 1 if settings.get("batch_first") else 0  # of the queries

    def forward(  # type: ignore[override]
        self,
        query: Tensor,
        key: Any,
        value: Any = None,
        query_pos: Tensor | None = None,
        key_pos: Any = None,
        key_padding_mask: Tensor | None = None,
        attn_mask: Tensor | None = None,
        temp_memory: Tensor | None = None,
        temp_pos: Tensor | None = None,
        **sampling: Any,
    ) -> Tensor:
        """query [Q, B, C], key and value [K, B, C] -> [Q, B, C]; batch_first swaps the axes.

        temp_memory and temp_pos [M, B, C] are further keys of the self-attention; attn_mask
        [Q, Q + M], True where a query does not attend. key_padding_mask [B, K], True at padding.
        """
        attentions, ffns, norms = iter(self.attentions), iter(self.ffns), iter(self.norms)
        identity = query
        for name in self.operation_order:
            residual = identity if self.pre_norm else None
            if name == "norm":
                query = next(norms)(query)
                continue
            if name == "self_attn":
                known, known_pos = query, query_pos
                if temp_memory is not None:
                    known = torch.cat((query, temp_memory), self.axis)
                    assert query_pos is not None and temp_pos is not None
                    known_pos = torch.cat((query_pos, temp_pos), self.axis)
                query = next(attentions)(
                    query,
                    known,
                    known,
                    residual,
                    query_pos=query_pos,
                    key_pos=known_pos,
                    attn_mask=attn_mask,
                )
            elif name == "cross_attn":
                query = next(attentions)(
                    query,
                    key,
                    value,
                    residual,
                    query_pos=query_pos,
                    key_pos=key_pos,
                    key_padding_mask=key_padding_mask,
                    **sampling,
                )
            else:
                query = next(ffns)(query, residual)
            identity = query
        return query


@MODELS.register_module()
class PETRTransformerDecoder(TransformerLayerSequence):
    """Layers whose outputs all pass the same norm; the next layer gets the state before it."""

    def __init__(
        self,
        transformerlayers: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        num_layers: int,
        return_intermediate: bool = False,
        post_norm_cfg: Mapping[str, Any] | None = {"type": "LN"},
        init_cfg: Any = None,
    ) -> None:
        super().__init__(transformerlayers, num_layers, init_cfg)
        self.return_intermediate = return_intermediate
        self.post_norm = build_norm(post_norm_cfg, self.embed_dims) if post_norm_cfg else None

    def forward(self, query: Tensor, key: Any, **settings: Any) -> Tensor:
        """query [Q, B, C] -> states of all layers [L, B, Q, C]."""
        states = []
        for layer in self.layers:
            query = layer(query, key, **settings)
            states.append(query if self.post_norm is None else self.post_norm(query))
        if not self.return_intermediate:
            states = states[-1:]
        return torch.stack(states).transpose(1, 2)


@MODELS.register_module(["PETRTransformer", "PETRDNTransformer", "PETRTemporalTransformer"])
class PETRTransformer(nn.Module):
    """The decoder; there is no encoder in any published config."""

    def __init__(
        self,
        decoder: Mapping[str, Any],
        encoder: Mapping[str, Any] | None = None,
        cross: bool = False,
        act_cfg: Mapping[str, Any] | None = None,
        init_cfg: Any = None,
    ) -> None:
        super().__init__()
        if encoder is not None:
            raise ValueError("PETRTransformer: an encoder is not supported; set it to None")
        self.init_cfg = init_cfg
        self.decoder = MODELS.build(decoder)
        self.embed_dims: int = self.decoder.embed_dims

    def init_weights(self) -> None:
        """Xavier initialization of every matrix named `weight`, as in the original."""
        for module in self.modules():
            weight = getattr(module, "weight", None)
            if isinstance(weight, Tensor) and weight.dim() > 1:
                nn.init.xavier_uniform_(weight)
                bias = getattr(module, "bias", None)
                if isinstance(bias, Tensor):
                    nn.init.zeros_(bias)

    def forward(
        self,
        target: Tensor,
        query_pos: Tensor,
        memory: Tensor,
        memory_pos: Tensor,
        **settings: Any,
    ) -> Tensor:
        """target and query_pos [B, Q, C], memory and memory_pos [B, K, C] -> [L, B, Q, C].

        Other arguments as those of PETRTransformerDecoderLayer, with the batch first.
        """
        for name in ("temp_memory", "temp_pos"):
            if settings.get(name) is not None:
                settings[name] = settings[name].transpose(0, 1)
        states: Tensor = self.decoder(
            target.transpose(0, 1),
            memory.transpose(0, 1),
            value=memory.transpose(0, 1),
            query_pos=query_pos.transpose(0, 1),
            key_pos=memory_pos.transpose(0, 1),
            **settings,
        )
        return states
