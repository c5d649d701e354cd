"""RepDETR3D: DETR3D's sampling of image features with StreamPETR's memory.

Letters: B streams, N cameras, Q queries, C channels, L levels, S cells of all levels.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from cupola import nn
from cupola.models.detr3d import DETR3DOutput
from cupola.models.detr3d.aggregation import flatten_levels, level_shapes
from cupola.models.detr3d.references import to_meters
from cupola.models.layers import TransformerLayerSequence
from cupola.models.petr.denoising import NoisyQueries
from cupola.models.petr.head import ZERO_LOSS
from cupola.models.petr.transformer import PETRTransformerDecoderLayer
from cupola.models.stream_petr.frame import FOCAL_UNIT, Frame
from cupola.models.stream_petr.inspection import inspect_sampling
from cupola.models.stream_petr.layers import MLN
from cupola.models.stream_petr.memory import StreamState
from cupola.models.stream_petr.point_attention import DeformableFeatureAggregation
from cupola.models.stream_petr.stream_petr import StreamPETR
from cupola.models.stream_petr.temporal_head import TemporalHead
from cupola.registry import MODELS


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
            shapes=level_shapes(levels),
            frame=frame,
        )
        return self.finish(memory, torch.nan_to_num(states), queries.references, noisy, frame)

    def align_cells(self, levels: Sequence[Tensor], frame: Frame) -> Tensor:
        """All cells of every camera [B * N, S, C], scaled and shifted by its calibration."""
        assert frame.extrinsics is not None
        focal = frame.intrinsics.diagonal(dim1=-2, dim2=-1)[..., :2] / FOCAL_UNIT
        camera = torch.cat((focal, frame.extrinsics[..., :3, :].flatten(-2)), -1)  # [B, N, 14]
        camera = camera.to(levels[0].dtype).flatten(0, 1)[:, None]
        aligned: Tensor = self.spatial_alignment(flatten_levels(levels), camera)
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
