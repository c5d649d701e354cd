"""Multi-scale deformable attention as a layer (Deformable DETR, arXiv 2010.04159).

Letters: B images, Q queries, S cells of all levels, C channels, M heads, L levels, P points.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from cupola import nn
from cupola.models.constants import constant
from cupola.ops.deform_attn import ms_deform_attn
from cupola.registry import MODELS


@MODELS.register_module(["MultiScaleDeformableAttention", "CustomMSDeformableAttention"])
class MultiScaleDeformableAttention(nn.Module):
    """identity + dropout(output_proj(weighted samples of value_proj(value))).

    Each head of a query samples `num_points` locations per level around the query's reference:
    offsets and weights are linear functions of the query, weights of a head sum to 1. im2col_step
    and norm_cfg change nothing (source: mmcv/ops/multi_scale_deform_attn.py; state keys
    sampling_offsets, attention_weights, value_proj, output_proj).
    """

    def __init__(
        self,
        embed_dims: int = 256,
        num_heads: int = 8,
        num_levels: int = 4,
        num_points: int = 4,
        im2col_step: int = 64,
        dropout: float = 0.1,
        batch_first: bool = False,
        norm_cfg: Mapping[str, Any] | None = None,
        init_cfg: Any = None,
        value_proj_ratio: float = 1.0,
    ) -> None:
        super().__init__()
        if embed_dims % num_heads:
            raise ValueError(f"embed_dims {embed_dims} is not a multiple of num_heads {num_heads}")
        self.init_cfg = init_cfg
        self.embed_dims = embed_dims
        self.num_heads = num_heads
        self.num_levels = num_levels
        self.num_points = num_points
        self.batch_first = batch_first
        self.dropout = nn.Dropout(dropout)
        points = num_heads * num_levels * num_points
        values = int(embed_dims * value_proj_ratio)
        self.sampling_offsets = nn.Linear(embed_dims, points * 2)
        self.attention_weights = nn.Linear(embed_dims, points)
        self.value_proj = nn.Linear(embed_dims, values)
        self.output_proj = nn.Linear(values, embed_dims)
        self.init_weights()

    def init_weights(self) -> None:
        """Every head looks in another direction, point p at p + 1 cells; all weights are equal."""
        spread_samples(
            self.sampling_offsets,
            self.attention_weights,
            (self.num_heads, self.num_levels, self.num_points),
        )
        init_projections(self.value_proj, self.output_proj)

    def forward(
        self,
        query: Tensor,
        key: Tensor | None = None,
        value: Tensor | None = None,
        identity: Tensor | None = None,
        query_pos: Tensor | None = None,
        key_pos: Tensor | None = None,
        key_padding_mask: Tensor | None = None,
        *,
        reference_points: Tensor,
        spatial_shapes: Sequence[tuple[int, int]],
    ) -> Tensor:
        """query [B, Q, C], value [B, S, C], reference_points [B, Q, L, 2 or 4] -> [B, Q, C].

        Sequence first unless batch_first. References are points (x, y) or boxes cxcywh in 0..1 of
        each level with its padding; `spatial_shapes` are (height, width) of the levels, whose cells
        `value` holds (the query by default). key_padding_mask [B, S] is True at padding, where the
        value is 0. key and key_pos are unused.
        """
        value = query if value is None else value
        residual = query if identity is None else identity
        if query_pos is not None:
            query = query + query_pos
        if not self.batch_first:
            query, value = query.transpose(0, 1), value.transpose(0, 1)
        values = self.values(value, key_padding_mask)
        locations, weights = self.sampling(query, reference_points, spatial_shapes)
        out = self.output_proj(ms_deform_attn(values, spatial_shapes, locations, weights))
        if not self.batch_first:
            out = out.transpose(0, 1)
        return self.dropout(out) + residual

    def values(self, value: Tensor, padding: Tensor | None) -> Tensor:
        """value [B, S, C], padding [B, S] -> what the heads sample [B, S, M, D]."""
        projected = self.value_proj(value)
        if padding is not None:
            projected = projected.masked_fill(padding[..., None], 0.0)
        return torch.unflatten(projected, -1, (self.num_heads, -1))

    def sampling(
        self, query: Tensor, references: Tensor, shapes: Sequence[tuple[int, int]]
    ) -> tuple[Tensor, Tensor]:
        """query [B, Q, C] -> locations [B, Q, M, L, P, 2] and weights [B, Q, M, L, P]."""
        offsets, weights = self.sampling_offsets(query), self.attention_weights(query)
        return self.place(offsets, weights, references, shapes)

    def place(
        self,
        offsets: Tensor,
        weights: Tensor,
        references: Tensor,
        shapes: Sequence[tuple[int, int]],
    ) -> tuple[Tensor, Tensor]:
        """Locations and weights, as `sampling`, from what the two linear layers compute.

        Offsets are cells around points, and for boxes fractions of half the size over P.
        """
        heads = (self.num_heads, self.num_levels, self.num_points)
        offsets = torch.unflatten(offsets, -1, (*heads, 2))
        weights = torch.unflatten(weights, -1, (heads[0], -1)).softmax(-1)
        center = references[:, :, None, :, None, :2]  # [B, Q, 1, L, 1, 2]
        if references.shape[-1] == 2:
            size = tuple((width, height) for height, width in shapes)
            steps = offsets / constant(size, offsets)[:, None]
        elif references.shape[-1] == 4:
            steps = offsets / self.num_points * references[:, :, None, :, None, 2:] * 0.5
        else:
            raise ValueError(
                f"reference_points should be [B, Q, L, 2 or 4], got {tuple(references.shape)}"
            )
        return center + steps, torch.unflatten(weights, -1, heads[1:])


def spread_samples(
    sampling_offsets: nn.Linear, attention_weights: nn.Linear, heads: tuple[int, int, int]
) -> None:
    """Every head looks in another direction, point p at p + 1 cells; all weights are equal.

    `heads` are M, L and P: heads, levels and points.
    """
    for layer in (sampling_offsets, attention_weights):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    M, L, P = heads
    angle = torch.arange(M) * (2 * math.pi / M)
    direction = torch.stack((angle.cos(), angle.sin()), -1)  # [M, 2]
    direction = direction / direction.abs().max(-1, keepdim=True).values
    steps = torch.arange(1, P + 1)[:, None]  # [P, 1]
    offsets = direction[:, None, None] * steps  # [M, 1, P, 2]
    bias = sampling_offsets.bias
    assert bias is not None
    bias.data.copy_(offsets.expand(-1, L, -1, -1).reshape(-1))


def init_projections(*layers: nn.Linear) -> None:
    """Xavier initialization without a bias."""
    for layer in layers:
        nn.init.xavier_uniform_(layer.weight)
        nn.init.zeros_(layer.bias)
