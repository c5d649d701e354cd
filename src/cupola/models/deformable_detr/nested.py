"""Deformable DETR as structured in MMDetection 2.x: the transformer is part of the head."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from cupola import nn
from cupola.models.deformable_detr.head import DeformableDETRHead
from cupola.models.deformable_detr.queries import (
    Proposals,
    Queries,
    best_cells,
    learned_queries,
    propose,
    proposed_queries,
)
from cupola.models.detr.nested import NESTED, batch_first
from cupola.models.layers import (
    FeatureLevels,
    MultiScaleDeformableAttention,
    TransformerLayerSequence,
    flatten_levels,
)
from cupola.models.layers.deformable_transformer import Decoded, decode, encode
from cupola.registry import MODELS

Config = Mapping[str, Any]
POSITIONS: Config = {
    "type": "SinePositionalEncoding",
    "num_feats": 128,
    "normalize": True,
    "offset": -0.5,
}


@MODELS.register_module("DeformableDetrTransformerDecoder")
class NestedDeformableDecoder(TransformerLayerSequence):
    """Decoder layers by operation_order, without a final norm."""

    def __init__(
        self,
        transformerlayers: Config | Sequence[Config],
        num_layers: int,
        return_intermediate: bool = False,
        init_cfg: Any = None,
    ) -> None:
        super().__init__(batch_first(transformerlayers), num_layers, init_cfg)


@MODELS.register_module()
class DeformableDetrTransformer(nn.Module):
    """Encoder, decoder and all that makes queries.

    Source: mmdet 2.x mmdet/models/utils/transformer.py.
    """

    def __init__(
        self,
        encoder: Config,
        decoder: Config,
        as_two_stage: bool = False,
        num_feature_levels: int = 4,
        two_stage_num_proposals: int = 300,
        init_cfg: Any = None,
    ) -> None:
        super().__init__()
        self.init_cfg = init_cfg
        self.as_two_stage = as_two_stage
        self.two_stage_num_proposals = two_stage_num_proposals
        self.encoder = NESTED.build(encoder)
        self.decoder = NESTED.build(decoder)
        C: int = self.encoder.embed_dims
        self.embed_dims = C
        self.level_embeds = nn.Parameter(torch.randn(num_feature_levels, C))
        if as_two_stage:
            self.enc_output = nn.Linear(C, C)
            self.enc_output_norm = nn.LayerNorm(C)
            self.pos_trans = nn.Linear(2 * C, 2 * C)
            self.pos_trans_norm = nn.LayerNorm(2 * C)
        else:
            self.reference_points = nn.Linear(C, 2)
        self.init_weights()

    def init_weights(self) -> None:
        """Xavier initialization of all matrices but the level embeddings and the attentions."""
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1 and name != "level_embeds":
                nn.init.xavier_uniform_(parameter)
        for module in self.modules():
            if isinstance(module, MultiScaleDeformableAttention):
                module.init_weights()
        if not self.as_two_stage:
            nn.init.zeros_(self.reference_points.bias)

    def queries(
        self,
        memory: Tensor,
        levels: FeatureLevels,
        embedding: Tensor | None,
        branches: tuple[nn.Module, nn.Module],
    ) -> tuple[Queries, Proposals | None]:
        """memory [B, S, C], embedding [Q, 2 * C] unless there are two stages -> queries."""
        if embedding is not None:
            return learned_queries(embedding, self.reference_points, memory.shape[0]), None
        proposals = propose(memory, levels, self.enc_output, self.enc_output_norm, *branches)
        best = best_cells(proposals.logits[..., 0], self.two_stage_num_proposals)
        boxes = proposals.take(best).boxes
        return proposed_queries(boxes, self.pos_trans, self.pos_trans_norm), proposals


@MODELS.register_module()
class NestedDeformableDETRHead(DeformableDETRHead):
    """The head of MMDetection 2.x, which also owns the transformer and the query embedding."""

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        transformer: Config,
        num_query: int = 100,
        with_box_refine: bool = False,
        as_two_stage: bool = False,
        positional_encoding: Config = POSITIONS,
        **settings: Any,
    ) -> None:
        super().__init__(
            num_classes,
            embed_dims=2 * positional_encoding["num_feats"],
            share_pred_layer=not with_box_refine,
            num_pred_layer=transformer["decoder"]["num_layers"] + as_two_stage,
            as_two_stage=as_two_stage,
            transformer={**transformer, "as_two_stage": as_two_stage},
            **settings,
        )
        self.with_box_refine = with_box_refine
        self.positional_encoding = MODELS.build(positional_encoding)
        if not as_two_stage:
            self.query_embedding = nn.Embedding(num_query, 2 * self.embed_dims)

    def decode(
        self, maps: tuple[Tensor, ...], padding_mask: Tensor | None
    ) -> tuple[Decoded, Proposals | None]:
        """Feature maps -> the states of all decoder layers, and the proposals of two stages."""
        transformer = self.transformer
        levels = flatten_levels(
            maps, padding_mask, self.positional_encoding, transformer.level_embeds
        )
        memory = encode(transformer.encoder.layers, levels)
        last = len(self.cls_branches) - 1
        queries, proposals = transformer.queries(
            memory,
            levels,
            None if self.as_two_stage else self.query_embedding.weight,
            (self.cls_branches[last], self.reg_branches[last]),
        )
        branches = list(self.reg_branches) if self.with_box_refine else None
        decoded = decode(
            transformer.decoder.layers,
            queries.content,
            queries.position,
            queries.references,
            memory,
            levels,
            branches,
        )
        return decoded, proposals
