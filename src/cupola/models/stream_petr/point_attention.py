"""RepDETR3D's cross-attention: image features at points around the reference of a query.

Letters: B streams, N cameras, Q queries, C channels, L levels, P points of a query, G groups of
channels, S cells of all levels.
"""

from typing import Any

from torch import Tensor

from cupola import nn
from cupola.models.detr3d.aggregation import Shapes, aggregate
from cupola.models.stream_petr.frame import Frame
from cupola.registry import MODELS
from cupola.structures import boxes3d

MIN_DEPTH = 1e-5


@MODELS.register_module("DeformableFeatureAggregationCuda")
class DeformableFeatureAggregation(nn.Module):
    """Samples all cameras at points around a query's reference, without a visibility mask.

    The weights are a softmax over cameras, levels and points together, one for each group of
    channels. Source: detr3d_transformer.py of StreamPETR.
    """

    def __init__(
        self,
        embed_dims: int = 256,
        num_groups: int = 8,
        num_levels: int = 4,
        num_cams: int = 6,
        dropout: float = 0.1,
        num_pts: int = 13,
        im2col_step: int = 64,
        batch_first: bool = True,
        bias: float = 1.0,
    ) -> None:
        super().__init__()
        C = embed_dims
        self.embed_dims, self.num_groups, self.num_levels = C, num_groups, num_levels
        self.num_pts, self.bias = num_pts, bias
        self.weights_fc = nn.Linear(C, num_groups * num_levels * num_pts)
        self.output_proj = nn.Linear(C, C)
        self.learnable_fc = nn.Linear(C, num_pts * 3)
        self.cam_embed = nn.Sequential(
            nn.Linear(12, C // 2),
            nn.ReLU(inplace=True),
            nn.Linear(C // 2, C),
            nn.ReLU(inplace=True),
            nn.LayerNorm(C),
        )
        self.drop = nn.Dropout(dropout)

    def init_weights(self) -> None:
        """Equal weights everywhere, and points within `bias` meters of the reference."""
        nn.init.zeros_(self.weights_fc.weight)
        nn.init.zeros_(self.weights_fc.bias)
        nn.init.xavier_uniform_(self.output_proj.weight)
        nn.init.zeros_(self.output_proj.bias)
        nn.init.uniform_(self.learnable_fc.bias, -self.bias, self.bias)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Any = None,
        identity: Tensor | None = None,
        query_pos: Tensor | None = None,
        key_pos: Any = None,
        key_padding_mask: Any = None,
        *,
        centers: Tensor,
        shapes: Shapes,
        frame: Frame,
    ) -> Tensor:
        """query [B, Q, C]; key [B * N, S, C], the cells; centers [B, Q, 3] in meters -> [B, Q, C].

        The other arguments are unused.
        """
        B, Q, _ = query.shape
        points = centers[:, :, None] + self.learnable_fc(query).view(B, Q, -1, 3)  # [B, Q, P, 3]
        matrices = frame.lidar2img.to(points.dtype)
        uv, _ = boxes3d.project(points[:, None], matrices[:, :, None, None], MIN_DEPTH)
        height, width = frame.image_size
        uv = (uv / uv.new_tensor((width, height))).flatten(0, 1)  # [B * N, Q, P, 2]
        weights = self.weights(query if query_pos is None else query + query_pos, matrices)
        weights = weights.view(*weights.shape[:3], self.num_levels, self.num_pts)
        sampled = aggregate(key, shapes, uv, weights, B)
        return self.drop(self.output_proj(sampled)) + query

    def weights(self, query: Tensor, matrices: Tensor) -> Tensor:
        """query [B, Q, C] with positions added, lidar2img [B, N, 4, 4] -> [B * N, Q, G, L * P]."""
        B, Q, _ = query.shape
        cameras = self.cam_embed(matrices[..., :3, :].flatten(-2))  # [B, N, C]
        logits = self.weights_fc(query[:, :, None] + cameras[:, None])  # [B, Q, N, L * P * G]
        shares = logits.reshape(B, Q, -1, self.num_groups).softmax(2)
        shares = shares.view(B, Q, cameras.shape[1], -1, self.num_groups)
        return shares.permute(0, 2, 1, 4, 3).flatten(0, 1)
