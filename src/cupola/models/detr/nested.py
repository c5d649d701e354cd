"""DETR as structured in MMDetection 2.x: projection, transformer and queries are in the head."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from cupola import nn
from cupola.models.detr.head import DETRHead
from cupola.models.layers import TransformerLayerSequence, build_norm
from cupola.registry import MODELS, Registry

# MMDetection 2.x and 3.x give these names to different classes. In MODELS they are 3.x's, whose
# configs have no Transformer; inside a Transformer they are the classes of this file.
NESTED = Registry("models", parent=MODELS, scope="mmdet2")

Config = Mapping[str, Any]
LAYER_NORM: Config = {"type": "LN"}
POSITIONS: Config = {"type": "SinePositionalEncoding", "num_feats": 128, "normalize": True}


def batch_first(transformerlayers: Config | Sequence[Config]) -> Any:
    """The layers' config with batch_first, which these sequences require, in attentions too."""
    if not isinstance(transformerlayers, Mapping):
        return [batch_first(layer) for layer in transformerlayers]
    attentions = transformerlayers["attn_cfgs"]
    if isinstance(attentions, Mapping):
        attentions = {**attentions, "batch_first": True}
    else:
        attentions = [{**each, "batch_first": True} for each in attentions]
    return {**transformerlayers, "attn_cfgs": attentions, "batch_first": True}


@NESTED.register_module("DetrTransformerEncoder")
class NestedEncoder(TransformerLayerSequence):
    """Encoder layers by operation_order, with a final norm if they are pre-norm."""

    def __init__(
        self,
        transformerlayers: Config | Sequence[Config],
        num_layers: int,
        post_norm_cfg: Config | None = LAYER_NORM,
        init_cfg: Any = None,
    ) -> None:
        super().__init__(batch_first(transformerlayers), num_layers, init_cfg)
        final = self.pre_norm and post_norm_cfg is not None
        self.post_norm = build_norm(post_norm_cfg or LAYER_NORM, self.embed_dims) if final else None

    def forward(self, x: Tensor, pos: Tensor, key_padding_mask: Tensor | None) -> Tensor:
        """x, pos [B, HW, C] -> [B, HW, C]."""
        for layer in self.layers:
            x = layer(x, query_pos=pos, query_key_padding_mask=key_padding_mask)
        return x if self.post_norm is None else self.post_norm(x)


@NESTED.register_module("DetrTransformerDecoder")
class NestedDecoder(TransformerLayerSequence):
    """Decoder layers by operation_order; the final norm is applied to the output of each."""

    def __init__(
        self,
        transformerlayers: Config | Sequence[Config],
        num_layers: int,
        post_norm_cfg: Config = LAYER_NORM,
        return_intermediate: bool = False,
        init_cfg: Any = None,
    ) -> None:
        super().__init__(batch_first(transformerlayers), num_layers, init_cfg)
        self.return_intermediate = return_intermediate
        self.post_norm = build_norm(post_norm_cfg, self.embed_dims)

    def forward(
        self,
        query_pos: Tensor,
        memory: Tensor,
        memory_pos: Tensor,
        key_padding_mask: Tensor | None,
    ) -> Tensor:
        """query_pos [B, Q, C], memory [B, HW, C] -> [L, B, Q, C]."""
        x = torch.zeros_like(query_pos)
        outputs = []
        for layer in self.layers:
            x = layer(
                x,
                memory,
                memory,
                query_pos=query_pos,
                key_pos=memory_pos,
                key_padding_mask=key_padding_mask,
            )
            outputs.append(x)
        if not self.return_intermediate:
            outputs = outputs[-1:]
        return self.post_norm(torch.stack(outputs))  # [L, B, Q, C]


@MODELS.register_module()
class Transformer(nn.Module):
    """Encoder and decoder, with Xavier initialization of all weight matrices.

    Source: mmdet 2.x mmdet/models/utils/transformer.py.
    """

    def __init__(self, encoder: Config, decoder: Config, init_cfg: Any = None) -> None:
        super().__init__()
        self.init_cfg = init_cfg
        self.encoder = NESTED.build(encoder)
        self.decoder = NESTED.build(decoder)
        self.embed_dims: int = self.encoder.embed_dims
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(
        self, features: Tensor, padding: Tensor | None, queries: Tensor, positions: Tensor
    ) -> Tensor:
        """features, positions [B, C, h, w]; padding [B, h, w]; queries [Q, C] -> [L, B, Q, C]."""
        cells = features.flatten(2).transpose(1, 2)  # [B, hw, C]
        pos = positions.to(features.dtype).flatten(2).transpose(1, 2)  # [B, hw, C]
        mask = None if padding is None else padding.flatten(1)  # [B, hw]
        memory = self.encoder(cells, pos, mask)
        query_pos = queries[None].expand(cells.shape[0], -1, -1)  # [B, Q, C]
        return self.decoder(query_pos, memory, pos, mask)


@MODELS.register_module()
class NestedDETRHead(DETRHead):
    """The head of MMDetection 2.x, which also owns input_proj, transformer and query_embedding."""

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        transformer: Config,
        num_query: int = 100,
        positional_encoding: Config = POSITIONS,
        **settings: Any,
    ) -> None:
        embed_dims = 2 * positional_encoding["num_feats"]
        self.in_channels, self.transformer_config = in_channels, transformer  # for build_layers
        super().__init__(num_classes, embed_dims=embed_dims, **settings)
        self.positional_encoding = MODELS.build(positional_encoding)
        self.query_embedding = nn.Embedding(num_query, embed_dims)

    def build_layers(self, embed_dims: int, num_reg_fcs: int) -> None:
        """Transformer, projection and DETR's layers, in the order of MMDetection's state dicts."""
        self.transformer = MODELS.build(self.transformer_config)
        self.input_proj = nn.Conv2d(self.in_channels, embed_dims, 1)
        super().build_layers(embed_dims, num_reg_fcs)

    def transform(self, features: Tensor, padding: Tensor | None) -> Tensor:
        """features [B, in_channels, h, w] -> normed hidden states [L, B, Q, C]."""
        B, _, h, w = features.shape
        mask = features.new_zeros(B, h, w, dtype=torch.bool) if padding is None else padding
        return self.transformer(
            self.input_proj(features),
            padding,
            self.query_embedding.weight,
            self.positional_encoding(mask),
        )
