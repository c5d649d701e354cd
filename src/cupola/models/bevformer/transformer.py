"""PerceptionTransformer: images -> bird's-eye view -> states of the objects.

Letters: B samples, N cameras, Q queries, K cells of the bird's-eye view, C channels.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from cupola import nn
from cupola.errors import BuildError
from cupola.models.bevformer.motion import (
    DEGREES,
    Motion,
    grid_shift,
    rotate_grid,
)
from cupola.models.bevformer.spatial_attention import (
    ImageFeatures,
    MSDeformableAttention3D,
    SpatialCrossAttention,
)
from cupola.models.bevformer.temporal_attention import TemporalSelfAttention
from cupola.models.detr3d.decoder import DecoderOutput
from cupola.models.detr3d.feature_sampling import Cameras
from cupola.models.detr3d.references import first_references
from cupola.models.layers import MultiScaleDeformableAttention
from cupola.registry import MODELS
from cupola.structures.can_bus import CAN_BUS

SAMPLING = (
    MSDeformableAttention3D,
    MultiScaleDeformableAttention,
    SpatialCrossAttention,
    TemporalSelfAttention,
)


@MODELS.register_module()
class PerceptionTransformer(nn.Module):
    """The previous bird's-eye view is turned about `rotate_center` (x, y), in cells of the grid.

    As in the original, the center does not depend on the size of the grid: (100, 100) is the middle
    of the base model's 200 x 200 cells. Sources: BEVFormer (arXiv 2203.17270); transformer.py.
    """

    def __init__(
        self,
        encoder: Mapping[str, Any],
        decoder: Mapping[str, Any],
        num_feature_levels: int = 4,
        num_cams: int = 6,
        two_stage_num_proposals: int = 300,
        embed_dims: int = 256,
        rotate_prev_bev: bool = True,
        use_shift: bool = True,
        use_can_bus: bool = True,
        can_bus_norm: bool = True,
        use_cams_embeds: bool = True,
        rotate_center: Sequence[float] = (100, 100),
        as_two_stage: bool = False,
        init_cfg: Any = None,
    ) -> None:
        super().__init__()
        if as_two_stage:
            raise BuildError("PerceptionTransformer: as_two_stage is not defined; set it to False")
        self.init_cfg = init_cfg
        self.encoder = MODELS.build(encoder)
        self.decoder = MODELS.build(decoder)
        self.embed_dims = embed_dims
        self.num_cams = num_cams
        self.rotate_prev_bev = rotate_prev_bev
        self.use_shift = use_shift
        self.use_can_bus = use_can_bus
        self.use_cams_embeds = use_cams_embeds
        self.rotate_center = (float(rotate_center[0]), float(rotate_center[1]))
        self.level_embeds = nn.Parameter(torch.zeros(num_feature_levels, embed_dims))
        self.cams_embeds = nn.Parameter(torch.zeros(num_cams, embed_dims))
        self.reference_points = nn.Linear(embed_dims, 3)
        self.can_bus_mlp = nn.Sequential(
            nn.Linear(CAN_BUS, embed_dims // 2),
            nn.ReLU(inplace=True),
            nn.Linear(embed_dims // 2, embed_dims),
            nn.ReLU(inplace=True),
        )
        if can_bus_norm:
            self.can_bus_mlp.add_module("norm", nn.LayerNorm(embed_dims))

    def init_weights(self) -> None:
        """Xavier initialization of all matrices, then that of the attentions that sample."""
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        for module in self.modules():
            if isinstance(module, SAMPLING):
                module.init_weights()
        nn.init.normal_(self.level_embeds)
        nn.init.normal_(self.cams_embeds)
        nn.init.xavier_uniform_(self.reference_points.weight)
        nn.init.zeros_(self.reference_points.bias)

    def see(
        self,
        levels: Sequence[Tensor],
        queries: Tensor,
        position: Tensor,
        motion: Motion,
        cameras: Cameras,
        size: tuple[int, int],
        lengths: tuple[float, float],
    ) -> Tensor:
        """The bird's-eye view [B, K, C] of the present.

        levels, each [B, N, C, h, w]; queries [K, C] and their position [B, K, C]; `size` (rows,
        columns) of the grid and `lengths`, its sides along y and x in meters.
        """
        shift = grid_shift(motion.can_bus, lengths).to(queries.dtype) * float(self.use_shift)
        if motion.previous is not None and self.rotate_prev_bev:
            turned = rotate_grid(
                motion.previous, size, motion.can_bus[:, DEGREES], self.rotate_center
            )
            motion = motion._replace(previous=turned)
        start = queries.expand(len(position), -1, -1)
        if self.use_can_bus:
            start = start + self.can_bus_mlp(motion.can_bus.to(queries.dtype))[:, None]
        bev: Tensor = self.encoder(
            start, self.flatten(levels), position, motion, shift, cameras, size
        )
        return bev

    def flatten(self, levels: Sequence[Tensor]) -> ImageFeatures:
        """Levels [B, N, C, h, w] -> their cells, with the embeddings of camera and level."""
        cells = []
        for number, level in enumerate(levels):
            flat = level.flatten(3).transpose(2, 3)  # [B, N, h * w, C]
            added = self.level_embeds[number]
            if self.use_cams_embeds:
                added = added + self.cams_embeds[:, None]
            cells.append(flat + added)
        shapes = [(level.shape[-2], level.shape[-1]) for level in levels]
        return ImageFeatures(torch.cat(cells, 2), shapes)

    def decode(
        self,
        bev: Tensor,
        object_queries: Tensor,
        size: tuple[int, int],
        reg_branches: Sequence[nn.Module] | None,
    ) -> DecoderOutput:
        """bev [B, K, C], object_queries [Q, 2 * C] (positions first, contents second)."""
        B = len(bev)
        position, query = object_queries[:, None].expand(-1, B, -1).chunk(2, dim=-1)  # [Q, B, C]
        references = first_references(self.reference_points, position[:, 0]).expand(B, -1, -1)
        decoded: DecoderOutput = self.decoder(
            query, position, references, bev.transpose(0, 1), size, reg_branches
        )
        return decoded
