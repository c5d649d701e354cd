"""RepDETR3D: DETR3D's sampling of image features with StreamPETR's memory.

Letters: B streams, N cameras, Q queries, C channels, L levels, P points of a query, G groups of
channels, S cells of all levels.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from cupola import nn
from cupola.models.detr3d import DETR3DOutput
from cupola.models.detr3d.references import to_meters
from cupola.models.layers import TransformerLayerSequence
from cupola.models.petr.denoising import NoisyQueries
from cupola.models.petr.head import ZERO_LOSS
from cupola.models.petr.transformer import PETRTransformerDecoderLayer
from cupola.models.stream_petr.frame import FOCAL_UNIT, Frame
from cupola.models.stream_petr.inspection import inspect_sampling
from cupola.models.stream_petr.layers import MLN
from cupola.models.stream_petr.memory import StreamState
from cupola.models.stream_petr.stream_petr import StreamPETR
from cupola.models.stream_petr.temporal_head import TemporalHead
from cupola.ops.bilinear import bilinear_corners, weighted_rows
from cupola.ops.deform_attn import ms_deform_attn
from cupola.registry import MODELS
from cupola.structures import boxes3d

Shapes = Sequence[tuple[int, int]]

MIN_DEPTH = 1e-5
MARGIN = 0.5  # of an image: bilinear interpolation reads at most half a cell beyond the border


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
        dense = torch.compiler.is_exporting() or torch.compiler.is_compiling()
        sample = self._sample_all if dense else self._sample_visible
        sampled = sample(key, shapes, uv, weights, B)
        return self.drop(self.output_proj(sampled)) + query

    def _sample_all(
        self, cells: Tensor, shapes: Shapes, uv: Tensor, weights: Tensor, batch: int
    ) -> Tensor:
        """cells [B * N, S, C], uv [B * N, Q, P, 2], weights [B * N, Q, G, L, P] -> [B, Q, C]."""
        groups, levels = weights.shape[2:4]
        places = uv[:, :, None, None].expand(-1, -1, groups, levels, -1, -1)
        values = torch.unflatten(cells, -1, (groups, -1))
        sampled = ms_deform_attn(values, shapes, places, weights)  # [B * N, Q, C]
        return torch.unflatten(sampled, 0, (batch, -1)).sum(1)

    def _sample_visible(
        self, cells: Tensor, shapes: Shapes, uv: Tensor, weights: Tensor, batch: int
    ) -> Tensor:
        """The same, reading only points that are in an image, about one in five.

        All groups read a point at the same place, so a row has all channels.
        """
        images, S, C = cells.shape
        Q, groups = weights.shape[1:3]
        near = ((uv > -MARGIN) & (uv < 1 + MARGIN)).all(-1)
        image, query, point = near.nonzero(as_tuple=True)  # M points each
        x, y = uv[image, query, point].unbind(-1)
        total, start = cells.new_zeros(batch * Q, C), 0
        rows = cells.reshape(images * S, C)
        owner = image // (images // batch) * Q + query
        for level, (height, width) in enumerate(shapes):
            index, corners = bilinear_corners(y * height - 0.5, x * width - 0.5, (height, width))
            values = weighted_rows(rows, index + (image * S + start)[:, None], corners)  # [M, C]
            share = weights[image, query, :, level, point]  # [M, G]
            values = values.view(-1, groups, C // groups) * share[..., None]
            total = total.index_add(0, owner, values.flatten(1))
            start += height * width
        return total.view(batch, Q, C)

    def weights(self, query: Tensor, matrices: Tensor) -> Tensor:
        """query [B, Q, C] with positions added, lidar2img [B, N, 4, 4] -> [B * N, Q, G, L * P]."""
        B, Q, _ = query.shape
        cameras = self.cam_embed(matrices[..., :3, :].flatten(-2))  # [B, N, C]
        logits = self.weights_fc(query[:, :, None] + cameras[:, None])  # [B, Q, N, L * P * G]
        shares = logits.reshape(B, Q, -1, self.num_groups).softmax(2)
        shares = shares.view(B, Q, cameras.shape[1], -1, self.num_groups)
        return shares.permute(0, 2, 1, 4, 3).flatten(0, 1)


@MODELS.register_module()
class Detr3DTemporalDecoderLayer(PETRTransformerDecoderLayer):
    """A layer whose feed-forward network has 1024 channels, whatever the config says.

    As in the original, `feedforward_channels` and `ffn_dropout` have no effect.
    """

    def __init__(
        self,
        attn_cfgs: Any,
        operation_order: Sequence[str],
        feedforward_channels: int | None = None,
        ffn_dropout: float | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(attn_cfgs, operation_order, **settings)


@MODELS.register_module()
class RepDetr3DTransformerDecoder(TransformerLayerSequence):
    """The layers; published configs call it Detr3DTransformerDecoder, as DETR3D's is called."""

    def __init__(self, embed_dims: int, transformerlayers: Any, num_layers: int) -> None:
        super().__init__(transformerlayers, num_layers)

    def forward(self, query: Tensor, key: Tensor, **settings: Any) -> Tensor:
        """query [B, Q, C] -> states of all layers [L, B, Q, C]."""
        states = []
        for layer in self.layers:
            query = layer(query, key, **settings)
            states.append(query)
        return torch.stack(states)


@MODELS.register_module()
class RepDetr3DTransformer(nn.Module):
    """The decoder; published configs call it Detr3DTransformer, as DETR3D's is called."""

    def __init__(self, decoder: Mapping[str, Any], init_cfg: Any = None) -> None:
        super().__init__()
        named = {**decoder, "type": "RepDetr3DTransformerDecoder"}
        self.decoder = MODELS.build(named)
        self.embed_dims: int = self.decoder.embed_dims

    def init_weights(self) -> None:
        """Xavier initialization of all matrices, then that of the cross-attentions."""
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        for module in self.modules():
            if isinstance(module, DeformableFeatureAggregation):
                module.init_weights()


@MODELS.register_module()
class SparseHead(TemporalHead):
    """StreamPETR's memory and queries over sampled features. Source: sparse_head.py."""

    def __init__(
        self,
        num_classes: int,
        transformer: Mapping[str, Any],
        bbox_coder: Mapping[str, Any],
        in_channels: int = 256,
        stride: Any = (16,),
        embed_dims: int = 256,
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
        if normedlinear:
            raise ValueError("SparseHead: normedlinear is not supported; set it to False")
        self.init_cfg = init_cfg
        self.transformer = MODELS.build({**transformer, "type": "RepDetr3DTransformer"})
        self.embed_dims: int = embed_dims
        self._build_branches(self.transformer.decoder.num_layers)
        self._build_queries()
        self.spatial_alignment = MLN(14, embed_dims, norm=False)
        self._build_time()

    def forward(
        self,
        levels: Sequence[Tensor],
        frame: Frame,
        state: StreamState,
        targets: Sequence[Mapping[str, Tensor]] | None = None,
    ) -> tuple[DETR3DOutput, StreamState, tuple[DETR3DOutput, NoisyQueries] | None]:
        """Maps [B, N, C, h_l, w_l] and the state -> output, next state, denoised queries."""
        memory = self.recall(frame, state)
        cells = self.align_cells(levels, frame)
        references, noisy = self.start(len(state.exists), targets)
        queries = self.align(memory, references)
        states = self.transformer.decoder(
            queries.target,
            cells,
            query_pos=queries.position,
            attn_mask=self.attention_mask(noisy),
            temp_memory=queries.memory,
            temp_pos=queries.memory_position,
            centers=to_meters(queries.references, self.pc_range),
            shapes=[(level.shape[-2], level.shape[-1]) for level in levels],
            frame=frame,
        )
        return self.finish(memory, torch.nan_to_num(states), queries.references, noisy, frame)

    def align_cells(self, levels: Sequence[Tensor], frame: Frame) -> Tensor:
        """All cells of every camera [B * N, S, C], scaled and shifted by its calibration."""
        assert frame.extrinsics is not None
        focal = frame.intrinsics.diagonal(dim1=-2, dim2=-1)[..., :2] / FOCAL_UNIT
        camera = torch.cat((focal, frame.extrinsics[..., :3, :].flatten(-2)), -1)  # [B, N, 14]
        camera = camera.to(levels[0].dtype).flatten(0, 1)[:, None]
        cells = torch.cat([level.flatten(0, 1).flatten(2).transpose(1, 2) for level in levels], 1)
        aligned: Tensor = self.spatial_alignment(cells, camera)
        return aligned


@MODELS.register_module()
class RepDetr3D(StreamPETR):
    """StreamPETR's streams with a SparseHead. Source: repdetr3d.py of StreamPETR."""

    stream_inputs = ("intrinsics", "ego_pose", "timestamp", "extrinsics")

    def inspect(
        self, pixels: Tensor, lidar2img: Tensor, image_size: Any = None, **motion: Tensor
    ) -> dict[str, Tensor]:
        """Where each layer's queries of one first frame looked; see inspect_sampling."""
        return inspect_sampling(self, pixels, self.frame(pixels, lidar2img, **motion))

    def features(self, pixels: Tensor) -> list[Tensor]:
        levels = self.extract(pixels)
        return [levels[index] for index in self.position_level]
