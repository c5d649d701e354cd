"""BEVFormerEncoder: layers that fill a grid around the vehicle from time and from the cameras.

Letters: B samples, N cameras, K cells of rows x columns, D heights of a pillar, C channels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cupola.errors import BuildError
from cupola.models.bevformer.motion import Motion
from cupola.models.bevformer.spatial_attention import ImageFeatures, Pillars
from cupola.models.detr3d.feature_sampling import Cameras
from cupola.models.detr3d.references import to_meters
from cupola.models.layers import TransformerLayer, TransformerLayerSequence
from cupola.registry import MODELS

OPERATIONS = {"self_attn", "norm", "cross_attn", "ffn"}


@dataclass(frozen=True)
class Past:
    """What the first attention of all layers reads besides the queries.

    previous: [B, K, C], turned to the present, or None. present: [B, K, C], the queries of the
    first layer. exists: [B], or None if all samples have a previous view. references: [B, K, 2, 2].
    """

    previous: Tensor | None
    present: Tensor
    exists: Tensor | None
    references: Tensor

    def views(self, query: Tensor) -> Tensor:
        """The two views [B, 2, K, C]; without a previous one both are the layer's query."""
        if self.previous is None:
            return torch.stack((query, query), 1)
        views = torch.stack((self.previous, self.present), 1)
        if self.exists is None:
            return views
        return torch.where(self.exists[:, None, None, None] > 0, views, query[:, None])


@MODELS.register_module()
class BEVFormerLayer(TransformerLayer):
    """Temporal self-attention, spatial cross-attention and a feed-forward network, each once.

    Source: encoder.py of BEVFormer.
    """

    def __init__(
        self,
        attn_cfgs: Any,
        operation_order: Sequence[str],
        batch_first: bool = True,
        **settings: Any,
    ) -> None:
        if len(operation_order) != 6 or set(operation_order) != OPERATIONS:
            raise BuildError(
                f"BEVFormerLayer: operation_order has six steps of {sorted(OPERATIONS)}, got "
                f"{list(operation_order)}"
            )
        super().__init__(attn_cfgs, operation_order, batch_first=batch_first, **settings)

    def forward(  # type: ignore[override]
        self,
        query: Tensor,
        features: ImageFeatures,
        query_pos: Tensor,
        past: Past,
        pillars: Pillars,
        size: tuple[int, int],
    ) -> Tensor:
        """query and query_pos [B, K, C] -> [B, K, C]. The positions only count in time."""
        attentions, ffns, norms = iter(self.attentions), iter(self.ffns), iter(self.norms)
        identity = query
        for name in self.operation_order:
            residual = identity if self.pre_norm else None
            if name == "norm":
                query = next(norms)(query)
                continue
            if name == "self_attn":
                query = next(attentions)(
                    query,
                    past.views(query),
                    residual,
                    query_pos,
                    references=past.references,
                    size=size,
                )
            elif name == "cross_attn":
                query = next(attentions)(query, features, residual, pillars=pillars)
            else:
                query = next(ffns)(query, residual)
            identity = query
        return query


@MODELS.register_module()
class BEVFormerEncoder(TransformerLayerSequence):
    """`dataset_type` changes nothing. Source: encoder.py of BEVFormer."""

    def __init__(
        self,
        transformerlayers: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        num_layers: int,
        pc_range: Sequence[float] = (),
        num_points_in_pillar: int = 4,
        return_intermediate: bool = False,
        dataset_type: str = "nuscenes",
        init_cfg: Any = None,
    ) -> None:
        super().__init__(transformerlayers, num_layers, init_cfg)
        if len(pc_range) != 6:
            raise BuildError(f"pc_range is (x0, y0, z0, x1, y1, z1) in meters, got {pc_range!r}")
        if return_intermediate:
            raise BuildError("BEVFormerEncoder: return_intermediate=True is not supported")
        for attention in (each for layer in self.layers for each in layer.attentions):
            sampled = getattr(attention, "deformable_attention", None)
            if sampled is not None and sampled.num_points % num_points_in_pillar:
                raise BuildError(
                    f"{type(sampled).__name__} has {sampled.num_points} points for "
                    f"{num_points_in_pillar} heights of a pillar; num_points is a multiple of "
                    "num_points_in_pillar"
                )
        self.pc_range = tuple(pc_range)
        self.num_points_in_pillar = num_points_in_pillar

    def forward(
        self,
        query: Tensor,
        features: ImageFeatures,
        query_pos: Tensor,
        motion: Motion,
        shift: Tensor,
        cameras: Cameras,
        size: tuple[int, int],
    ) -> Tensor:
        """query and query_pos [B, K, C], shift [B, 2] in fractions (x, y) of the grid -> [B, K, C].

        `motion.previous` is turned to the present already.
        """
        cells = cell_centers(size, query)  # [K, 2]
        past = self._past(query, motion, shift, cells)
        pillars = self.project(cells, cameras)
        for layer in self.layers:
            query = layer(query, features, query_pos, past, pillars, size)
        return query

    def _past(self, query: Tensor, motion: Motion, shift: Tensor, cells: Tensor) -> Past:
        exists = motion.exists
        if exists is not None and not torch.compiler.is_exporting() and bool((exists > 0).all()):
            exists = None
        if motion.previous is None:
            shift = torch.zeros_like(shift)
        elif exists is not None:
            shift = shift * exists[:, None]
        both = torch.stack((shift, torch.zeros_like(shift)), 1)  # [B, 2, 2]
        return Past(motion.previous, query, exists, cells[:, None] + both[:, None])

    def project(self, cells: Tensor, cameras: Cameras) -> Pillars:
        """The points above every cell [K, 2] in the images of every camera."""
        tall, count = self.pc_range[5] - self.pc_range[2], self.num_points_in_pillar
        like: dict[str, Any] = {"dtype": cells.dtype, "device": cells.device}
        heights = torch.linspace(0.5, tall - 0.5, count, **like) / tall  # [D]
        K = len(cells)
        points = torch.cat(
            (cells[:, None].expand(-1, count, -1), heights.expand(K, -1)[..., None]), -1
        )
        B = len(cameras.lidar2img)
        meters = to_meters(points, self.pc_range).flatten(0, 1).expand(B, -1, -1)  # [B, K * D, 3]
        seen = cameras.project(meters)
        return Pillars(
            torch.unflatten(seen.uv, 2, (K, count)).to(cells.dtype),
            torch.unflatten(seen.visible, 2, (K, count)),
        )


def cell_centers(size: tuple[int, int], like: Tensor) -> Tensor:
    """Fractions (x, y) of a grid of (rows, columns), row by row [K, 2]."""
    rows, columns = size
    real: dict[str, Any] = {"dtype": like.dtype, "device": like.device}
    y = torch.linspace(0.5, rows - 0.5, rows, **real) / rows
    x = torch.linspace(0.5, columns - 0.5, columns, **real) / columns
    return torch.stack((x.expand(rows, -1), y[:, None].expand(-1, columns)), -1).flatten(0, 1)
