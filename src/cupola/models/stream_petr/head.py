"""StreamPETRHead: PETR whose best queries are kept, moved with the vehicle and used again.

Letters: L layers, B streams, N cameras, h and w size of the feature map, D depths, K cells of all
cameras, Q queries, P propagated queries, M remembered queries, C channels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cupola import nn
from cupola.models.detr3d.box_head import CODE_WEIGHTS, BoxHead3D, DETR3DOutput
from cupola.models.layers import inverse_sigmoid
from cupola.models.petr.denoising import (
    Noise,
    NoisyQueries,
    denoising_losses,
    make_noisy_queries,
)
from cupola.models.petr.head import PREDICTIONS, ZERO_LOSS, place_codes, tokens
from cupola.models.petr.head_v2 import SELayer
from cupola.models.petr.position import (
    depth_bins,
    encode_points,
    frustum,
    invert_cameras,
    points_on_rays,
)
from cupola.models.stream_petr.layers import MLN, encode_motion, encode_time
from cupola.models.stream_petr.memory import (
    StreamState,
    empty_memory,
    invert_pose,
    pad_first_frame,
    remember,
    to_present,
)
from cupola.registry import MODELS
from cupola.structures import boxes3d

FOCAL_UNIT = 1e3  # focal lengths are given to networks in thousands of pixels
CONE_DEPTHS = (-1, -30)  # the two depths of a ray that tell a cell's place


@dataclass(frozen=True)
class Frame:
    """One moment of every stream.

    lidar2img, intrinsics: [B, N, 4, 4], for the images as given. ego_pose: [B, 4, 4], lidar to a
    frame that does not move. timestamp: [B], seconds, float64. image_size: (height, width) with
    padding. extrinsics: [B, N, 4, 4], lidar to camera; only RepDETR3D needs them.
    """

    lidar2img: Tensor
    intrinsics: Tensor
    ego_pose: Tensor
    timestamp: Tensor
    image_size: tuple[int, int]
    extrinsics: Tensor | None = None


class Queries(NamedTuple):
    """What enters the decoder.

    target, position: [B, Q + P, C]. references: [B, Q + P, 3] in 0..1, those of propagated queries
    may lie outside. memory, memory_position: [B, M - P, C].
    """

    target: Tensor
    position: Tensor
    references: Tensor
    memory: Tensor
    memory_position: Tensor


class TemporalHead(BoxHead3D):
    """The memory of a stream, its alignment, branches, denoising and losses.

    The codes are cx, cy, cz, log l, log w, log h, sin, cos, vx, vy. A subclass has the decoder.
    """

    box_code = boxes3d.BoxCode(center_first=True)
    transformer: Any

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        transformer: Mapping[str, Any],
        bbox_coder: Mapping[str, Any],
        *,
        num_query: int = 100,
        num_reg_fcs: int = 2,
        memory_len: int = 1024,
        topk_proposals: int = 256,
        num_propagated: int = 256,
        with_dn: bool = True,
        with_ego_pos: bool = True,
        match_with_velo: bool = True,
        match_costs: Sequence[float] | None = None,
        sync_cls_avg_factor: bool = False,
        code_weights: Sequence[float] | None = None,
        code_size: int = 10,
        scalar: int = 5,
        noise_scale: float = 0.4,
        noise_trans: float = 0.0,
        dn_weight: float = 1.0,
        split: float = 0.5,
        losses: Sequence[Mapping[str, Any] | None],
        train_cfg: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(
            num_classes,
            bbox_coder,
            train_cfg,
            losses=losses,
            num_reg_fcs=num_reg_fcs,
            code_size=code_size,
            code_weights=code_weights,
            sync_cls_avg_factor=sync_cls_avg_factor,
        )
        if not 0 <= num_propagated <= memory_len:
            raise ValueError(
                f"num_propagated is {num_propagated}, expected 0 to memory_len ({memory_len})"
            )
        if topk_proposals > num_query + num_propagated:
            raise ValueError(
                f"topk_proposals is {topk_proposals}, but there are {num_query + num_propagated} "
                "queries (num_query + num_propagated)"
            )
        self.in_channels = in_channels
        self.num_query = num_query
        self.memory_len = memory_len
        self.topk_proposals = topk_proposals
        self.num_propagated = num_propagated
        self.with_dn = with_dn
        self.with_ego_pos = with_ego_pos
        self.matched_channels = 10 if match_with_velo else 8
        self.noise = Noise(int(scalar), noise_scale, noise_trans, split)
        self.dn_weight = dn_weight
        costs = match_costs or tuple(code_weights or CODE_WEIGHTS)[:code_size]
        self.match_costs = nn.Parameter(torch.tensor(tuple(costs)), requires_grad=False)
        self.pc_range = nn.Parameter(
            torch.tensor(tuple(self.bbox_coder.pc_range)), requires_grad=False
        )

    def _build_branches(self, layers: int) -> None:
        count = max(PREDICTIONS, layers)
        self.cls_branches = self._branches(self._class_branch, count, False)
        self.reg_branches = self._branches(self._box_branch, count, False)

    def _build_queries(self) -> None:
        C = self.embed_dims
        self.reference_points = nn.Embedding(self.num_query, 3)
        if self.num_propagated > 0:
            self.pseudo_reference_points = nn.Embedding(self.num_propagated, 3)
        self.query_embedding = nn.Sequential(nn.Linear(C * 3 // 2, C), nn.ReLU(), nn.Linear(C, C))

    def _build_time(self) -> None:
        C, motion = self.embed_dims, 180  # 15 numbers in 6 octaves of sines and cosines
        self.time_embedding = nn.Sequential(nn.Linear(C, C), nn.LayerNorm(C))
        if self.with_ego_pos:
            self.ego_pose_pe = MLN(motion, C)
            self.ego_pose_memory = MLN(motion, C)

    def init_weights(self) -> None:
        """Uniform references, Xavier initialization of the transformer, a prior per class."""
        nn.init.uniform_(self.reference_points.weight, 0, 1)
        if self.num_propagated > 0:
            nn.init.uniform_(self.pseudo_reference_points.weight, 0, 1)
            self.pseudo_reference_points.weight.requires_grad = False
        self.transformer.init_weights()
        self.set_class_prior()

    def matching_weights(self) -> Tensor:
        return self.match_costs

    def initial_state(self, batch: int = 1) -> StreamState:
        """The memory before the first frame of `batch` streams."""
        like = self.query_embedding[0].weight[:0, : self.embed_dims]
        return empty_memory(batch, self.memory_len + self.topk_proposals, like)

    def recall(self, frame: Frame, state: StreamState) -> StreamState:
        """The memory as seen from the present frame."""
        ego = frame.ego_pose.to(state.embedding.dtype)
        memory = to_present(state, invert_pose(ego), frame.timestamp, self.memory_len)
        if self.num_propagated == 0:
            return memory
        low, high = self.pc_range[:3], self.pc_range[3:]
        return pad_first_frame(memory, self.pseudo_reference_points.weight * (high - low) + low)

    def align(self, memory: StreamState, references: Tensor) -> Queries:
        """Queries at the references [B, Q, 3], aware of time and motion, and those remembered."""
        low, high = self.pc_range[:3], self.pc_range[3:]
        half, P = self.embed_dims // 2, self.num_propagated
        past_references = (memory.reference_point - low) / (high - low)
        position = self.query_embedding(encode_points(references, half))
        past_position = self.query_embedding(encode_points(past_references, half))
        target, past = torch.zeros_like(position), memory.embedding
        if self.with_ego_pos:
            still = torch.eye(4, dtype=position.dtype, device=position.device)[:3].flatten()
            still = encode_motion(torch.cat((still.new_zeros(3), still)))
            target = self.ego_pose_memory(target, still)
            position = self.ego_pose_pe(position, still)
            motion = torch.cat(
                (memory.velo, memory.timestamp, memory.egopose[..., :3, :].flatten(-2)), -1
            )
            motion = encode_motion(motion.to(past.dtype))
            past_position = self.ego_pose_pe(past_position, motion)
            past = self.ego_pose_memory(past, motion)
        now = torch.zeros_like(memory.timestamp[:1, :1])
        position = position + self._encode_time(now)
        past_position = past_position + self._encode_time(memory.timestamp)
        return Queries(
            torch.cat((target, past[:, :P]), 1),
            torch.cat((position, past_position[:, :P]), 1),
            torch.cat((references, past_references[:, :P]), 1),
            past[:, P:],
            past_position[:, P:],
        )

    def _encode_time(self, seconds: Tensor) -> Tensor:
        weight = self.time_embedding[0].weight
        encoded: Tensor = self.time_embedding(encode_time(seconds, self.embed_dims).to(weight))
        return encoded

    def start(self, batch: int, targets: Sequence[Mapping[str, Tensor]] | None) -> tuple[
        Tensor, NoisyQueries | None
    ]:  # fmt: skip
        """The references of learned queries [B, Q, 3], in training after those of noisy objects."""
        references = self.reference_points.weight.expand(batch, -1, -1)
        if not (self.training and self.with_dn and targets is not None):
            return references, None
        noisy = make_noisy_queries(
            [target["labels"] for target in targets],
            [boxes3d.bottom_to_center(target["boxes"]) for target in targets],
            self.noise,
            self.num_classes,
            self.pc_range,
        )
        if noisy is not None:
            references = torch.cat((noisy.references.to(references), references), 1)
        return references, noisy

    def attention_mask(self, noisy: NoisyQueries | None) -> Tensor | None:
        """Which queries do not see each other; None where all do."""
        if noisy is None:
            return None
        memory = self.memory_len
        return noisy.mask(self.num_query, self.num_propagated, memory)

    def read(self, states: Tensor, references: Tensor) -> DETR3DOutput:
        """Classes and boxes from the states [L, B, Q, C] and references [B, Q, 3]."""
        logits = [branch(s) for branch, s in zip(self.cls_branches, states, strict=False)]
        codes = [branch(s) for branch, s in zip(self.reg_branches, states, strict=False)]
        boxes = place_codes(torch.stack(codes), references, self.pc_range, self.box_code)
        return DETR3DOutput(torch.stack(logits), boxes)

    def stream_loss(
        self,
        output: DETR3DOutput,
        denoised: "tuple[DETR3DOutput, NoisyQueries] | None",
        targets: Sequence[Mapping[str, Tensor]],
    ) -> dict[str, Tensor]:
        """The losses of BoxHead3D, and of denoised queries dn_loss_cls, d0.dn_loss_cls, ..."""
        losses = self.loss(output, targets)
        if denoised is None:
            return losses
        return losses | denoising_losses(self, *denoised, self.noise, self.dn_weight)

    def finish(
        self,
        memory: StreamState,
        states: Tensor,
        references: Tensor,
        noisy: NoisyQueries | None,
        frame: Frame,
    ) -> tuple[DETR3DOutput, StreamState, tuple[DETR3DOutput, NoisyQueries] | None]:
        """The decoder's states [L, B, Q, C] -> output, next state, and the noisy queries'."""
        output, denoised = self.read(states, references), None
        if noisy is not None:
            extra = noisy.count
            denoised = DETR3DOutput(*(each[:, :, :extra] for each in output)), noisy
            output = DETR3DOutput(*(each[:, :, extra:] for each in output))
            states = states[:, :, extra:]
        return output, self.keep(memory, states, output, frame), denoised

    def keep(
        self, memory: StreamState, states: Tensor, output: DETR3DOutput, frame: Frame
    ) -> StreamState:
        """The state after this frame: its best queries in front of the memory."""
        best = output.logits[-1].sigmoid().amax(-1).topk(self.topk_proposals, dim=1).indices
        boxes = output.boxes[-1]
        ego = frame.ego_pose.to(boxes.dtype)
        return remember(
            memory, best, states[-1], boxes[..., :3], boxes[..., -2:], ego, frame.timestamp
        )


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
        """Features [B, N, channels, h, w] -> keys and their positions [B, K, C]."""
        position, cone = self.encode_rays(features, frame)
        keys = self.spatial_alignment(self.memory_embed(tokens(features)), cone)
        return keys, self.featurized_pe(position, keys)

    def locations(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Columns [w] and rows [h] in pixels of the middle of every cell."""
        h, w = features.shape[-2:]
        size: dict[str, Any] = {"dtype": torch.float32, "device": features.device}
        return (
            torch.arange(w, **size) * self.stride + self.stride // 2,
            torch.arange(h, **size) * self.stride + self.stride // 2,
        )

    def encode_rays(self, features: Tensor, frame: Frame) -> tuple[Tensor, Tensor]:
        """The embedding of every cell's ray [B, K, C], and its cone [B, K, 8].

        The cone has the focal lengths and two points of the ray. As in the original, the focal
        lengths are those of camera (cell number modulo N), not those of the cell's own camera.
        """
        columns, rows = self.locations(features)
        points = points_on_rays(
            frustum(columns, rows, self.coords_d.float()),
            invert_cameras(frame.lidar2img).float(),
            self.position_range.float(),
        )  # [B, N, h, w, D, 3]
        points = points.flatten(1, 3).to(features.dtype)  # [B, K, D, 3]
        position = self.position_encoder(inverse_sigmoid(points.flatten(-2)))
        focal = frame.intrinsics.diagonal(dim1=-2, dim2=-1)[..., :2].abs() / FOCAL_UNIT
        cells = features.shape[-2] * features.shape[-1]
        focal = focal.to(points.dtype).repeat(1, cells, 1)  # [B, h * w * N, 2]
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
