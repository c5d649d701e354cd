"""TemporalHead: the best queries are kept, moved with the vehicle and used again.

Letters: L layers, B streams, N cameras, h and w size of the feature map, D depths, K cells of all
cameras, Q queries, P propagated queries, M remembered queries, C channels.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from cupola import nn
from cupola.models.detr3d.box_head import CODE_WEIGHTS, BoxHead3D, DETR3DOutput
from cupola.models.petr.denoising import (
    Noise,
    NoisyQueries,
    denoising_losses,
    losses_without_noise,
    make_noisy_queries,
)
from cupola.models.petr.head import PREDICTIONS, place_codes
from cupola.models.petr.position import encode_points
from cupola.models.stream_petr.frame import Frame, Queries, check_counts
from cupola.models.stream_petr.layers import MLN, encode_motion, encode_time
from cupola.models.stream_petr.memory import (
    StreamState,
    empty_memory,
    invert_pose,
    pad_first_frame,
    remember,
    to_present,
)
from cupola.structures import boxes3d


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
        check_counts(num_query, memory_len, topk_proposals, num_propagated)
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
        now = memory.timestamp.new_zeros(1, 1, 1)
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
        return noisy.mask(self.num_query, self.num_propagated, self.memory_len)

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
        """The losses of BoxHead3D, and with_dn those of denoised queries, dn_loss_cls, ..."""
        losses = self.loss(output, targets)
        if denoised is None:
            repeated = losses_without_noise(self, output, targets) if self.with_dn else {}
            return losses | repeated
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
