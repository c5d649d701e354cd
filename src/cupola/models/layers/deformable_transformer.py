"""Encoder and decoder with deformable attention, as in MMDetection 3.x.

Letters: B images, L levels, S cells of all levels, Q queries, C channels, D decoder layers.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cupola import nn
from cupola.models.layers.attention import MultiheadAttention
from cupola.models.layers.building import build_norm
from cupola.models.layers.deformable_attention import MultiScaleDeformableAttention
from cupola.models.layers.feature_levels import FeatureLevels, cell_centers
from cupola.models.layers.feed_forward import FFN
from cupola.models.layers.references import refine_boxes

Config = Mapping[str, Any]
LAYER_NORM: Config = {"type": "LN"}


class DeformableEncoderLayer(nn.Module):
    """Deformable self-attention and FFN over the cells of all levels, post-norm."""

    def __init__(
        self,
        self_attn_cfg: Config,
        ffn_cfg: Config,
        norm_cfg: Config = LAYER_NORM,
        init_cfg: Any = None,
    ) -> None:
        super().__init__()
        self.self_attn = MultiScaleDeformableAttention(**{**self_attn_cfg, "batch_first": True})
        self.embed_dims = self.self_attn.embed_dims
        self.ffn = FFN(**ffn_cfg)
        self.norms = nn.ModuleList(build_norm(norm_cfg, self.embed_dims) for _ in range(2))

    def forward(
        self,
        query: Tensor,
        *,
        query_pos: Tensor,
        query_key_padding_mask: Tensor | None,
        reference_points: Tensor,
        spatial_shapes: Sequence[tuple[int, int]],
    ) -> Tensor:
        """query, query_pos [B, S, C]; mask [B, S], True = padded; references [B, S, L, 2]."""
        query = self.self_attn(
            query,
            query_pos=query_pos,
            key_padding_mask=query_key_padding_mask,
            reference_points=reference_points,
            spatial_shapes=spatial_shapes,
        )
        return self.norms[1](self.ffn(self.norms[0](query)))


class DeformableDecoderLayer(nn.Module):
    """Self-attention among the queries, deformable cross-attention to the memory, FFN."""

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
        self.cross_attn = MultiScaleDeformableAttention(**{**cross_attn_cfg, "batch_first": True})
        self.embed_dims = self.self_attn.embed_dims
        self.ffn = FFN(**ffn_cfg)
        self.norms = nn.ModuleList(build_norm(norm_cfg, self.embed_dims) for _ in range(3))

    def forward(
        self,
        query: Tensor,
        *,
        value: Tensor,
        query_pos: Tensor,
        key_padding_mask: Tensor | None,
        reference_points: Tensor,
        spatial_shapes: Sequence[tuple[int, int]],
        self_attn_mask: Tensor | None = None,
    ) -> Tensor:
        """query, query_pos [B, Q, C]; value [B, S, C]; references [B, Q, L, 2 or 4] -> [B, Q, C].

        self_attn_mask [Q, Q] (or [B * heads, Q, Q]) is True where a query (row) must not see
        another (column).
        """
        query = self.self_attn(
            query, query, query, query_pos=query_pos, key_pos=query_pos, attn_mask=self_attn_mask
        )
        query = self.cross_attn(
            self.norms[0](query),
            value=value,
            query_pos=query_pos,
            key_padding_mask=key_padding_mask,
            reference_points=reference_points,
            spatial_shapes=spatial_shapes,
        )
        return self.norms[2](self.ffn(self.norms[1](query)))


class DeformableDetrTransformerEncoder(nn.Module):
    """num_layers encoder layers; no final norm. `num_cp` saves memory in the original only."""

    def __init__(
        self, num_layers: int, layer_cfg: Config, num_cp: int = -1, init_cfg: Any = None
    ) -> None:
        super().__init__()
        self.num_layers = num_layers
        self.layers = nn.ModuleList(DeformableEncoderLayer(**layer_cfg) for _ in range(num_layers))
        self.embed_dims: int = self.layers[0].embed_dims

    def forward(self, levels: FeatureLevels) -> Tensor:
        """The cells of all levels -> memory [B, S, C]."""
        return encode(self.layers, levels)


class DeformableDetrTransformerDecoder(nn.Module):
    """num_layers decoder layers; no final norm."""

    def __init__(
        self,
        num_layers: int,
        layer_cfg: Config,
        return_intermediate: bool = True,
        post_norm_cfg: Config | None = None,
        init_cfg: Any = None,
    ) -> None:
        super().__init__()
        if post_norm_cfg is not None:
            raise ValueError("a deformable decoder has no post_norm; set post_norm_cfg=None")
        self.num_layers = num_layers
        self.layers = nn.ModuleList(DeformableDecoderLayer(**layer_cfg) for _ in range(num_layers))
        self.embed_dims: int = self.layers[0].embed_dims

    def forward(
        self,
        query: Tensor,
        query_pos: Tensor,
        references: Tensor,
        memory: Tensor,
        levels: FeatureLevels,
        reg_branches: Sequence[nn.Module] | None,
    ) -> "Decoded":
        """Queries [B, Q, C] with references [B, Q, 2 or 4] -> the states of all layers."""
        return decode(self.layers, query, query_pos, references, memory, levels, reg_branches)


class Decoded(NamedTuple):
    """states: [D, B, Q, C] of every layer. references: [B, Q, 2 or 4] before each layer."""

    states: Tensor
    references: list[Tensor]


def encode(layers: Iterable[nn.Module], levels: FeatureLevels) -> Tensor:
    """Encoder layers over the cells of all levels -> memory [B, S, C]."""
    references, cells = cell_centers(levels), levels.cells
    for layer in layers:
        cells = layer(
            cells,
            query_pos=levels.positions,
            query_key_padding_mask=levels.padding,
            reference_points=references,
            spatial_shapes=levels.shapes,
        )
    return cells


def decode(
    layers: Iterable[nn.Module],
    query: Tensor,
    query_pos: Tensor,
    references: Tensor,
    memory: Tensor,
    levels: FeatureLevels,
    reg_branches: Sequence[nn.Module] | None,
) -> Decoded:
    """Decoder layers; with `reg_branches` each layer refines the references for the next one.

    query, query_pos [B, Q, C]; references [B, Q, 2 or 4] in 0..1 of the image; memory [B, S, C].
    """
    states, before = [], []
    for index, layer in enumerate(layers):
        if index and reg_branches is not None:
            references = refine_boxes(references, reg_branches[index - 1](query)).detach()
        before.append(references)
        query = layer(
            query,
            value=memory,
            query_pos=query_pos,
            key_padding_mask=levels.padding,
            reference_points=on_levels(references, levels),
            spatial_shapes=levels.shapes,
        )
        states.append(query)
    return Decoded(torch.stack(states), before)


def on_levels(references: Tensor, levels: FeatureLevels) -> Tensor:
    """References [B, Q, 2 or 4] in 0..1 of the image -> in 0..1 of each level [B, Q, L, 2 or 4]."""
    ratios = levels.valid_ratios.repeat(1, 1, references.shape[-1] // 2)  # [B, L, 2 or 4]
    return references[:, :, None] * ratios[:, None]
