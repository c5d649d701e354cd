"""Detr3DCrossAtten: queries sample image features at the projections of their reference points."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from cupola import nn
from cupola.errors import InputError
from cupola.models.detr3d.feature_sampling import Cameras, Pyramid
from cupola.models.detr3d.references import to_meters
from cupola.models.layers import inverse_sigmoid
from cupola.registry import MODELS


@MODELS.register_module()
class Detr3DCrossAtten(nn.Module):
    """query + dropout(output_proj(weighted features)) + position feature of the reference.

    The weights are sigmoids of a linear function of the query, one per camera, point and level;
    they are not normalized, and cameras that do not see the point are skipped. The order of the
    cameras therefore matters. All `num_points` sample the same location, so only the sum of their
    weights matters. num_heads and im2col_step are accepted and unused, as in the original.
    Source: DETR3D (arXiv 2110.06922), equations 3 to 5; detr3d_transformer.py.
    """

    def __init__(
        self,
        embed_dims: int = 256,
        num_heads: int = 8,
        num_levels: int = 4,
        num_points: int = 5,
        num_cams: int = 6,
        im2col_step: int = 64,
        pc_range: Sequence[float] = (),
        dropout: float = 0.1,
        norm_cfg: Mapping[str, Any] | None = None,
        init_cfg: Any = None,
        batch_first: bool = False,
    ) -> None:
        super().__init__()
        if len(pc_range) != 6:
            raise ValueError(f"pc_range is (x0, y0, z0, x1, y1, z1) in meters, got {pc_range!r}")
        self.init_cfg = init_cfg
        self.embed_dims = embed_dims
        self.num_levels = num_levels
        self.num_points = num_points
        self.num_cams = num_cams
        self.pc_range = tuple(pc_range)
        self.batch_first = batch_first
        self.dropout = nn.Dropout(dropout)
        self.attention_weights = nn.Linear(embed_dims, num_cams * num_levels * num_points)
        self.output_proj = nn.Linear(embed_dims, embed_dims)
        self.position_encoder = nn.Sequential(
            nn.Linear(3, embed_dims),
            nn.LayerNorm(embed_dims),
            nn.ReLU(inplace=True),
            nn.Linear(embed_dims, embed_dims),
            nn.LayerNorm(embed_dims),
            nn.ReLU(inplace=True),
        )
        self.init_weights()

    def init_weights(self) -> None:
        """Initializes all camera and level weights to sigmoid(0) = 0.5."""
        for parameter in (*self.attention_weights.parameters(), *self.output_proj.parameters()):
            nn.init.zeros_(parameter)
        nn.init.xavier_uniform_(self.output_proj.weight)

    def forward(
        self,
        query: Tensor,
        key: Tensor | None,
        value: Pyramid,
        identity: Tensor | None = None,
        query_pos: Tensor | None = None,
        key_pos: Tensor | None = None,
        key_padding_mask: Tensor | None = None,
        *,
        reference_points: Tensor,
        cameras: Cameras,
    ) -> Tensor:
        """query [Q, B, C], reference_points [B, Q, 3] in 0..1 -> [Q, B, C] (batch_first swaps).

        A query with batch size 1 is used for all samples. key, key_pos and key_padding_mask are
        unused.
        """
        residual = query if identity is None else identity
        if query_pos is not None:
            query = query + query_pos
        if not self.batch_first:
            query = query.transpose(0, 1)  # [B, Q, C]
        weights = self.camera_weights(query, cameras.lidar2img.shape[1])
        weights = weights.expand(cameras.lidar2img.shape[0], -1, -1, -1)
        projection = cameras.project(to_meters(reference_points, self.pc_range))
        if torch.compiler.is_exporting():
            features = value.gather_all(projection, weights)
        else:
            features = value.gather(projection, weights)
        out = self.output_proj(features)  # [B, Q, C]
        position = self.position_encoder(inverse_sigmoid(reference_points))
        if not self.batch_first:
            out, position = out.transpose(0, 1), position.transpose(0, 1)
        return self.dropout(out) + residual + position

    def camera_weights(self, query: Tensor, cameras: int) -> Tensor:
        """query [B, Q, C] with positions added -> weights [B, N, Q, L] in 0..num_points."""
        if cameras != self.num_cams:
            raise InputError(
                f"this model expects {self.num_cams} cameras, got {cameras}; number and order "
                "must be those of its training (num_cams in the config)"
            )
        return self.split_weights(self.attention_weights(query))

    def split_weights(self, logits: Tensor) -> Tensor:
        """[B, Q, N * points * L] in the layout of the linear layer -> weights [B, N, Q, L]."""
        shape = (self.num_cams, self.num_points, self.num_levels)
        weights = torch.unflatten(logits.sigmoid(), -1, shape)  # [B, Q, N, points, L]
        return weights.sum(3).transpose(1, 2)
