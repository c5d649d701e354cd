"""StreamPETRHead: PETR whose best queries are kept, moved with the vehicle and used again.

Letters: L layers, B streams, N cameras, h and w size of the feature map, D depths, K cells of all
cameras, Q queries, P propagated queries, M remembered queries, C channels.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from cupola import nn
from cupola.models.detr3d.box_head import DETR3DOutput
from cupola.models.detr3d.extraction import computed_apart
from cupola.models.layers import inverse_sigmoid
from cupola.models.petr.cells import tokens
from cupola.models.petr.denoising import NoisyQueries
from cupola.models.petr.head import ZERO_LOSS
from cupola.models.petr.head_v2 import SELayer
from cupola.models.petr.position import depth_bins, frustum, invert_cameras, points_on_rays
from cupola.models.stream_petr.focal_head import cell_centers
from cupola.models.stream_petr.frame import FOCAL_UNIT, Frame, Queries
from cupola.models.stream_petr.layers import MLN
from cupola.models.stream_petr.memory import StreamState
from cupola.models.stream_petr.temporal_head import TemporalHead
from cupola.registry import MODELS

CONE_DEPTHS = (-1, -30)  # the two depths of a ray that tell a cell's place


@MODELS.register_module()
class StreamPETRHead(TemporalHead):
    """Position embedding without a sine encoding, gated by the features, and PETR's decoder.

    Sources: StreamPETR (arXiv 2303.11926); streampetr_head.py.
    """

    def __init__(
        self,
        num_classes: int,
        transformer: Mapping[str, Any],
        bbox_coder: Mapping[str, Any],
        in_channels: int = 256,
        stride: int = 16,
        embed_dims: int = 256,
        depth_step: float = 0.8,
        depth_num: int = 64,
        LID: bool = False,
        depth_start: float = 1,
        position_range: Sequence[float] = (-65, -65, -8.0, 65, 65, 8.0),
        with_position: bool = True,
        normedlinear: bool = False,
        loss_cls: Mapping[str, Any] | None = None,
        loss_bbox: Mapping[str, Any] | None = None,
        loss_iou: Mapping[str, Any] | None = ZERO_LOSS,
        test_cfg: Mapping[str, Any] | None = None,
        init_cfg: Any = None,
        **memory: Any,
    ) -> None:
        super().__init__(
            num_classes,
            in_channels,
            transformer,
            bbox_coder,
            losses=(loss_cls, loss_bbox, loss_iou),
            **memory,
        )
        if normedlinear or not with_position:
            raise ValueError(
                "StreamPETRHead: normedlinear and with_position=False are not supported"
            )
        if depth_num < -min(CONE_DEPTHS):
            raise ValueError(
                f"StreamPETRHead: depth_num is {depth_num}, expected at least {-min(CONE_DEPTHS)}"
            )
        self.init_cfg = init_cfg
        self.stride = stride
        self.transformer = MODELS.build(transformer)
        self.embed_dims: int = embed_dims
        self.position_range = nn.Parameter(
            torch.tensor([float(side) for side in position_range]), requires_grad=False
        )
        self.coords_d = nn.Parameter(
            depth_bins(depth_start, position_range[3], depth_num, LID), requires_grad=False
        )
        C = embed_dims
        self._build_branches(self.transformer.decoder.num_layers)
        self.position_encoder = nn.Sequential(
            nn.Linear(3 * depth_num, C * 4), nn.ReLU(), nn.Linear(C * 4, C)
        )
        self.memory_embed = nn.Sequential(nn.Linear(in_channels, C), nn.ReLU(), nn.Linear(C, C))
        self.featurized_pe = SELayer(C, linear=True)
        self._build_queries()
        self.spatial_alignment = MLN(8, C)
        self._build_time()

    def forward(
        self,
        levels: Sequence[Tensor],
        frame: Frame,
        state: StreamState,
        targets: Sequence[Mapping[str, Tensor]] | None = None,
    ) -> tuple[DETR3DOutput, StreamState, tuple[DETR3DOutput, NoisyQueries] | None]:
        """One map [B, N, channels, h, w] and the state -> output, next state, denoised queries."""
        memory = self.recall(frame, state)
        keys, key_positions = self.embed(levels[0], frame)
        references, noisy = self.start(len(keys), targets)
        queries = self.align(memory, references)
        states = self.attend(keys, key_positions, queries, self.attention_mask(noisy))
        return self.finish(memory, states, queries.references, noisy, frame)

    def embed(self, features: Tensor, frame: Frame) -> tuple[Tensor, Tensor]:
        """Features [B, N, channels, h, w] -> keys and their positions [B, K, C].

        The hidden numbers of a ray are the largest of the head; a prediction on a CPU has those of
        one camera.
        """
        N = features.shape[1]
        if not computed_apart(features.transpose(0, 1)):
            return self._embed(features, frame, slice(N))
        keys, positions = zip(
            *(self._embed(features, frame, slice(n, n + 1)) for n in range(N)), strict=True
        )
        return torch.cat(keys, 1), torch.cat(positions, 1)

    def _embed(self, features: Tensor, frame: Frame, cameras: slice) -> tuple[Tensor, Tensor]:
        position, cone = self.encode_rays(features, frame, cameras)
        keys = self.memory_embed(tokens(features[:, cameras]))
        keys = self.spatial_alignment(keys, cone)
        return keys, self.featurized_pe(position, keys)

    def locations(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Columns [w] and rows [h] in pixels of the middle of every cell."""
        return cell_centers(features, self.stride)

    def encode_rays(
        self, features: Tensor, frame: Frame, cameras: slice = slice(None)
    ) -> tuple[Tensor, Tensor]:
        """The embedding of every cell's ray [B, K, C], and its cone [B, K, 8], of some cameras.

        The cone has the focal lengths and two points of the ray. As in the original, the focal
        lengths are those of camera (cell number modulo N), not those of the cell's own camera.
        """
        columns, rows = self.locations(features)
        points = points_on_rays(
            frustum(columns, rows, self.coords_d.float()),
            invert_cameras(frame.lidar2img[:, cameras]).float(),
            self.position_range.float(),
        )  # [B, N, h, w, D, 3]
        points = points.flatten(1, 3).to(features.dtype)  # [B, K, D, 3]
        position = self.position_encoder(inverse_sigmoid(points.flatten(-2)))
        focal = frame.intrinsics.diagonal(dim1=-2, dim2=-1)[..., :2].abs() / FOCAL_UNIT
        cells = features.shape[-2] * features.shape[-1]
        focal = focal.to(points.dtype).repeat(1, cells, 1)  # [B, h * w * N, 2]
        focal = torch.unflatten(focal, 1, (-1, cells))[:, cameras].flatten(1, 2)
        far, near = (points[..., depth, :] for depth in CONE_DEPTHS)
        return position, torch.cat((focal, far, near), -1)

    def attend(
        self, keys: Tensor, key_positions: Tensor, queries: Queries, mask: Tensor | None
    ) -> Tensor:
        """The decoder's states [L, B, Q + P, C]."""
        states = self.transformer(
            queries.target,
            queries.position,
            keys,
            key_positions,
            attn_mask=mask,
            temp_memory=queries.memory,
            temp_pos=queries.memory_position,
        )
        return torch.nan_to_num(states)


@MODELS.register_module()
class PETRHeadDN(StreamPETRHead):
    """A StreamPETRHead that remembers nothing and knows no time; denoising is the same.

    Source: petr_head_dn.py of StreamPETR, which its PETRv1 configs name.
    """

    def __init__(self, *args: Any, **settings: Any) -> None:
        alone: dict[str, Any] = {"with_ego_pos": False, "match_with_velo": False}
        alone |= {"memory_len": 0, "topk_proposals": 0, "num_propagated": 0}
        super().__init__(*args, **{**settings, **alone})

    def _build_time(self) -> None:
        pass

    def _encode_time(self, seconds: Tensor) -> Tensor:
        weight: Tensor = self.query_embedding[0].weight
        return weight.new_zeros(*seconds.shape[:-1], self.embed_dims)
