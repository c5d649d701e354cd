"""TemporalSelfAttention: cells of the bird's-eye view read the previous one and the present one.

Letters: B samples, K cells of the bird's-eye view, C channels, M heads, P sampling points.
"""

from typing import Any

import torch
from torch import Tensor

from cupola import nn
from cupola.models.constants import constant
from cupola.models.layers.deformable_attention import init_projections, spread_samples
from cupola.ops.deform_attn import ms_deform_attn
from cupola.registry import MODELS

VIEWS = 2  # the previous bird's-eye view and the present one


@MODELS.register_module()
class TemporalSelfAttention(nn.Module):
    """identity + dropout(output_proj(mean over both views of weighted samples)).

    Offsets and weights are linear functions of a cell's query and of the previous view there. As
    in the original, a batch reads them at the first B of its 2 * B views, ordered sample by sample:
    those of another sample where B > 1. im2col_step and norm_cfg change nothing.
    Sources: BEVFormer (arXiv 2203.17270), section 3.4; temporal_self_attention.py.
    """

    def __init__(
        self,
        embed_dims: int = 256,
        num_heads: int = 8,
        num_levels: int = 4,
        num_points: int = 4,
        num_bev_queue: int = VIEWS,
        im2col_step: int = 64,
        dropout: float = 0.1,
        batch_first: bool = True,
        norm_cfg: Any = None,
        init_cfg: Any = None,
    ) -> None:
        super().__init__()
        if embed_dims % num_heads:
            raise ValueError(f"embed_dims {embed_dims} is not a multiple of num_heads {num_heads}")
        if num_levels != 1 or num_bev_queue != VIEWS or not batch_first:
            raise ValueError(
                "TemporalSelfAttention reads two views of one level, batch first: set "
                f"num_levels=1 and num_bev_queue=2 (got {num_levels} and {num_bev_queue})"
            )
        self.init_cfg = init_cfg
        self.embed_dims = embed_dims
        self.num_heads = num_heads
        self.num_points = num_points
        self.dropout = nn.Dropout(dropout)
        points = VIEWS * num_heads * num_points
        self.sampling_offsets = nn.Linear(embed_dims * VIEWS, points * 2)
        self.attention_weights = nn.Linear(embed_dims * VIEWS, points)
        self.value_proj = nn.Linear(embed_dims, embed_dims)
        self.output_proj = nn.Linear(embed_dims, embed_dims)
        self.init_weights()

    def init_weights(self) -> None:
        """Every head looks in another direction; all weights are equal."""
        heads = (self.num_heads, VIEWS, self.num_points)
        spread_samples(self.sampling_offsets, self.attention_weights, heads)
        init_projections(self.value_proj, self.output_proj)

    def forward(
        self,
        query: Tensor,
        views: Tensor,
        identity: Tensor | None = None,
        query_pos: Tensor | None = None,
        *,
        references: Tensor,
        size: tuple[int, int],
    ) -> Tensor:
        """query [B, K, C], views [B, 2, K, C], references [B, K, 2, 2] (x, y) -> [B, K, C].

        References are fractions of the two views, whose (rows, columns) are `size`.
        """
        B, K, _ = query.shape
        residual = query if identity is None else identity
        if query_pos is not None:
            query = query + query_pos
        both = torch.cat((views.flatten(0, 1)[:B], query), -1)  # [B, K, 2 * C]
        heads = (self.num_heads, VIEWS, self.num_points)
        offsets = self.sampling_offsets(both).view(B, K, *heads, 2)
        weights = self.attention_weights(both).view(B, K, *heads).softmax(-1) / VIEWS
        cells = constant((size[1], size[0]), query)
        locations = references[:, :, None, :, None] + offsets / cells  # [B, K, M, 2, P, 2]
        values = self.value_proj(views.flatten(1, 2)).unflatten(-1, (self.num_heads, -1))
        read = ms_deform_attn(values, [size, size], locations, weights)  # [B, K, C]
        out: Tensor = self.dropout(self.output_proj(read)) + residual
        return out
