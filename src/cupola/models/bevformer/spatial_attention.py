"""SpatialCrossAttention: cells of the bird's-eye view read the cameras that see them.

Letters: B samples, N cameras, K cells, D heights of a pillar, C channels, M heads, L feature
levels, S cells of all levels, P sampling points.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cupola import nn
from cupola.models.constants import constant
from cupola.models.layers.deformable_attention import init_projections, spread_samples
from cupola.ops.deform_attn import ms_deform_attn
from cupola.registry import MODELS

Shapes = Sequence[tuple[int, int]]

EXPORTED_READS = 1 << 20  # samples of all heads, levels and points: 6 cameras of the tiny model


class Pillars(NamedTuple):
    """uv: [B, N, K, D, 2], where the points above a cell are in the images (fractions).

    visible: [B, N, K, D], bool, whether they are in front of the camera and in its image.
    """

    uv: Tensor
    visible: Tensor


class ImageFeatures(NamedTuple):
    """cells: [B, N, S, C], level by level and row by row. shapes: (height, width) of each level."""

    cells: Tensor
    shapes: Shapes


@MODELS.register_module()
class MSDeformableAttention3D(nn.Module):
    """Samples around every point of a pillar; SpatialCrossAttention projects the result.

    Point p belongs to height p % D. im2col_step, dropout and norm_cfg change nothing.
    Source: spatial_cross_attention.py.
    """

    def __init__(
        self,
        embed_dims: int = 256,
        num_heads: int = 8,
        num_levels: int = 4,
        num_points: int = 8,
        im2col_step: int = 64,
        dropout: float = 0.1,
        batch_first: bool = True,
        norm_cfg: Any = None,
        init_cfg: Any = None,
    ) -> None:
        super().__init__()
        if embed_dims % num_heads:
            raise ValueError(f"embed_dims {embed_dims} is not a multiple of num_heads {num_heads}")
        self.init_cfg = init_cfg
        self.embed_dims = embed_dims
        self.num_heads = num_heads
        self.num_levels = num_levels
        self.num_points = num_points
        points = num_heads * num_levels * num_points
        self.sampling_offsets = nn.Linear(embed_dims, points * 2)
        self.attention_weights = nn.Linear(embed_dims, points)
        self.value_proj = nn.Linear(embed_dims, embed_dims)
        self.init_weights()

    def init_weights(self) -> None:
        """Every head looks in another direction; all weights are equal."""
        heads = (self.num_heads, self.num_levels, self.num_points)
        spread_samples(self.sampling_offsets, self.attention_weights, heads)
        init_projections(self.value_proj)

    def sampling(self, query: Tensor, shapes: Shapes) -> tuple[Tensor, Tensor]:
        """query [B, K, C] -> offsets [B, K, M, L, P, 2] in fractions, weights [B, K, M, L, P]."""
        heads = (self.num_heads, self.num_levels, self.num_points)
        sizes = constant(tuple((width, height) for height, width in shapes), query)
        offsets = self.sampling_offsets(query).unflatten(-1, (*heads, 2)) / sizes[:, None]
        weights = self.attention_weights(query).unflatten(-1, (heads[0], -1)).softmax(-1)
        return offsets, weights.unflatten(-1, heads[1:])

    def read(
        self, cells: Tensor, shapes: Shapes, uv: Tensor, offsets: Tensor, weights: Tensor
    ) -> Tensor:
        """One camera: its cells [B, S, C], sampled around uv [B, K, D, 2] -> [B, K, C]."""
        values = torch.unflatten(self.value_proj(cells), -1, (self.num_heads, -1))
        by_height = torch.unflatten(offsets, -2, (-1, uv.shape[2]))  # [B, K, M, L, P / D, D, 2]
        locations = (by_height + uv[:, :, None, None, None]).flatten(-3, -2)
        return ms_deform_attn(values, shapes, locations, weights)


@MODELS.register_module()
class SpatialCrossAttention(nn.Module):
    """identity + dropout(output_proj(mean over the cameras that see a cell)).

    As in the original, the cells that read a camera are those that the batch's first sample sees
    there, and the mean is over the cameras of each sample. Once a cell reads a camera, all heights
    of its pillar are sampled. batch_first changes nothing.
    Sources: BEVFormer (arXiv 2203.17270), section 3.3; spatial_cross_attention.py.
    """

    def __init__(
        self,
        embed_dims: int = 256,
        num_cams: int = 6,
        pc_range: Sequence[float] | None = None,
        dropout: float = 0.1,
        init_cfg: Any = None,
        batch_first: bool = False,
        deformable_attention: Mapping[str, Any] = {"type": "MSDeformableAttention3D"},
    ) -> None:
        super().__init__()
        self.init_cfg = init_cfg
        self.embed_dims = embed_dims
        self.num_cams = num_cams
        self.dropout = nn.Dropout(dropout)
        self.deformable_attention = MODELS.build(deformable_attention)
        self.output_proj = nn.Linear(embed_dims, embed_dims)
        self.init_weights()

    def init_weights(self) -> None:
        """Xavier initialization of the projection."""
        init_projections(self.output_proj)

    def forward(
        self,
        query: Tensor,
        features: ImageFeatures,
        identity: Tensor | None = None,
        *,
        pillars: Pillars,
    ) -> Tensor:
        """query [B, K, C] -> [B, K, C]."""
        residual = query if identity is None else identity
        attention = self.deformable_attention
        offsets, weights = attention.sampling(query, features.shapes)
        seen = pillars.visible.any(-1)  # [B, N, K]
        exporting = torch.compiler.is_exporting()
        add = self._add_all if exporting else self._add_seen
        total = add(query, features, pillars.uv, seen, offsets, weights)
        count = seen.sum(1).clamp(min=1)[..., None]  # [B, K, 1]
        out: Tensor = self.dropout(self.output_proj(total / count)) + residual
        return out

    def _add_seen(
        self,
        query: Tensor,
        features: ImageFeatures,
        uv: Tensor,
        seen: Tensor,
        offsets: Tensor,
        weights: Tensor,
    ) -> Tensor:
        """The sum over the cameras [B, K, C] of what the cells that each sees read there."""
        total = torch.zeros_like(query)
        for camera in range(uv.shape[1]):
            cells = seen[0, camera].nonzero()[:, 0]
            if len(cells):
                found = self.deformable_attention.read(
                    features.cells[:, camera],
                    features.shapes,
                    uv[:, camera, cells],
                    offsets[:, cells],
                    weights[:, cells],
                )
                total = total.index_add(1, cells, found)
        return total

    def _add_all(
        self,
        query: Tensor,
        features: ImageFeatures,
        uv: Tensor,
        seen: Tensor,
        offsets: Tensor,
        weights: Tensor,
    ) -> Tensor:
        """The same without indices that depend on the data: all cells read all cameras.

        Several cameras are read as one batch, which makes the exported graph smaller, unless it
        would hold more than EXPORTED_READS samples at once.
        """
        B, N = uv.shape[:2]
        step = max(1, min(N, EXPORTED_READS // weights.numel()))
        total = torch.zeros_like(query)
        for first in range(0, N, step):
            chosen = slice(first, min(first + step, N))
            count = chosen.stop - first
            here = seen[:1, chosen, :, None, None, None].to(weights.dtype)  # [1, n, K, 1, 1, 1]
            masked = (weights[:, None] * here).flatten(0, 1)  # [B * n, K, M, L, P]
            every = offsets[:, None].expand(-1, count, *offsets.shape[1:]).flatten(0, 1)
            found = self.deformable_attention.read(
                features.cells[:, chosen].flatten(0, 1),
                features.shapes,
                uv[:, chosen].flatten(0, 1),
                every,
                masked,
            )
            total = total + torch.unflatten(found, 0, (B, count)).sum(1)
        return total
