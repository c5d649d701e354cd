"""Sparse4D's cross-attention: image features at the key points of a box, of all cameras.

Letters: B streams, N cameras, Q instances, C channels, L levels, P key points, G groups of
channels, S cells of all levels.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from cupola import nn
from cupola.models.detr3d.aggregation import Shapes, aggregate
from cupola.models.sparse4d.frame import Frame
from cupola.models.sparse4d.layers import linear_relu_ln
from cupola.registry import MODELS
from cupola.structures import boxes3d

MIN_DEPTH = 1e-5


@MODELS.register_module()
class DeformableFeatureAggregation(nn.Module):
    """Samples all cameras at the key points of a box, without a visibility mask.

    The weights are a softmax over cameras, levels and points together, one for each group of
    channels. With `residual_mode` "cat" the output has the input after it, and 2 C channels. In
    training a share `attn_drop` of the points in each camera is left out.
    Source: Sparse4D v2 (arXiv 2305.14018); blocks.py.
    """

    def __init__(
        self,
        embed_dims: int = 256,
        num_groups: int = 8,
        num_levels: int = 4,
        num_cams: int = 6,
        proj_drop: float = 0.0,
        attn_drop: float = 0.0,
        kps_generator: Mapping[str, Any] | None = None,
        temporal_fusion_module: Any = None,
        use_temporal_anchor_embed: bool = True,
        use_deformable_func: bool = False,
        use_camera_embed: bool = False,
        residual_mode: str = "add",
    ) -> None:
        super().__init__()
        if embed_dims % num_groups or kps_generator is None or temporal_fusion_module is not None:
            raise ValueError(
                f"DeformableFeatureAggregation needs embed_dims ({embed_dims}) that are a multiple "
                f"of num_groups ({num_groups}), a kps_generator and no temporal_fusion_module"
            )
        if residual_mode not in ("add", "cat"):
            raise ValueError(f"residual_mode is {residual_mode!r}, expected 'add' or 'cat'")
        C = embed_dims
        self.num_groups, self.num_levels, self.num_cams = num_groups, num_levels, num_cams
        self.attn_drop, self.residual_mode = attn_drop, residual_mode
        self.proj_drop = nn.Dropout(proj_drop)
        self.kps_generator = MODELS.build({**kps_generator, "embed_dims": C})
        self.num_pts: int = self.kps_generator.num_pts
        self.output_proj = nn.Linear(C, C)
        weights = num_groups * num_levels * self.num_pts
        self.camera_encoder: nn.Sequential | None = None
        if use_camera_embed:
            self.camera_encoder = nn.Sequential(*linear_relu_ln(C, 1, 2, 12))
        else:
            weights *= num_cams
        self.weights_fc = nn.Linear(C, weights)

    def init_weights(self) -> None:
        """Equal weights everywhere."""
        nn.init.zeros_(self.weights_fc.weight)
        nn.init.zeros_(self.weights_fc.bias)
        nn.init.xavier_uniform_(self.output_proj.weight)
        nn.init.zeros_(self.output_proj.bias)
        self.kps_generator.init_weights()

    def forward(
        self,
        feature: Tensor,
        boxes: Tensor,
        position: Tensor,
        cells: Tensor,
        shapes: Shapes,
        frame: Frame,
    ) -> Tensor:
        """feature and position [B, Q, C], boxes [B, Q, 11], cells [B * N, S, C] -> [B, Q, C].

        With `residual_mode` "cat" [B, Q, 2 C].
        """
        matrices = frame.lidar2img.to(boxes.dtype)
        uv = self.project(self.kps_generator(boxes, feature), matrices, frame.image_size)
        weights = self.weights(feature + position, matrices)  # [B, N, Q, G, L, P]
        sampled = aggregate(cells, shapes, uv.flatten(0, 1), weights.flatten(0, 1), len(feature))
        output = self.proj_drop(self.output_proj(sampled))
        if self.residual_mode == "add":
            return output + feature
        return torch.cat((output, feature), -1)

    @staticmethod
    def project(points: Tensor, matrices: Tensor, size: tuple[int, int]) -> Tensor:
        """points [B, Q, P, 3] in meters, matrices [B, N, 4, 4] -> (u, v) in 0..1 [B, N, Q, P, 2].

        `size` is (height, width) of the images.
        """
        uv, _ = boxes3d.project(points[:, None], matrices[:, :, None, None], MIN_DEPTH)
        return uv / uv.new_tensor((size[1], size[0]))

    def weights(self, query: Tensor, matrices: Tensor) -> Tensor:
        """query [B, Q, C], lidar2img [B, N, 4, 4] -> shares [B, N, Q, G, L, P]."""
        B, Q, _ = query.shape
        if self.camera_encoder is not None:
            cameras = self.camera_encoder(matrices[..., :3, :].flatten(-2))  # [B, N, C]
            query = query[:, :, None] + cameras[:, None]  # [B, Q, N, C]
        logits = self.weights_fc(query).reshape(B, Q, -1, self.num_groups)
        shares = logits.softmax(2).view(
            B, Q, self.num_cams, self.num_levels, self.num_pts, self.num_groups
        )
        if self.training and self.attn_drop > 0:
            drawn = torch.rand(B, Q, self.num_cams, 1, self.num_pts, 1).to(shares)
            shares = shares * (drawn > self.attn_drop) / (1 - self.attn_drop)
        return shares.permute(0, 2, 1, 5, 3, 4)
