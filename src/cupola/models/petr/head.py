"""PETRHead: queries attend to features that carry their 3-D position.

Letters: L layers, B samples, N cameras, Q queries, C channels, h and w size of the feature map,
D depths.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cupola import nn
from cupola.models.detr3d import BoxHead3D, DETR3DOutput
from cupola.models.detr3d.references import to_meters
from cupola.models.layers import inverse_sigmoid
from cupola.models.petr.cells import encode_cells, pixel_network, tokens
from cupola.models.petr.position import (
    depth_bins,
    encode_points,
    frustum,
    invert_cameras,
    points_on_rays,
    position_input,
)
from cupola.registry import MODELS
from cupola.structures import boxes3d

ZERO_LOSS: Mapping[str, Any] = {"type": "GIoULoss", "loss_weight": 0.0}
PREDICTIONS = 6  # branches of the original, however many layers there are


@dataclass(frozen=True)
class Views:
    """What the cameras of a batch see.

    lidar2img: [B, N, 4, 4], meters to pixels. image_size: (height, width) with padding.
    mask: [B, N, H, W], bool, True = padding, or None without padding. seconds: [B], by which the
    later half of the cameras is older than the first, or None.
    """

    lidar2img: Tensor
    image_size: tuple[int, int]
    mask: Tensor | None = None
    seconds: Tensor | None = None


@MODELS.register_module()
class PETRHead(BoxHead3D):
    """Position embedding, decoder, branches, losses of PETR.

    `old_boxes` True reads and writes codes as MMDetection3D did before version 1.0. The branches
    of all layers are one module. Sources: PETR (arXiv 2203.05625); petr_head.py.
    """

    separate_branches = False

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        transformer: Mapping[str, Any],
        bbox_coder: Mapping[str, Any],
        positional_encoding: Mapping[str, Any],
        num_query: int = 100,
        num_reg_fcs: int = 2,
        sync_cls_avg_factor: bool = False,
        code_weights: Sequence[float] | None = None,
        code_size: int = 10,
        with_position: bool = True,
        with_multiview: bool = False,
        depth_step: float = 0.8,
        depth_num: int = 64,
        LID: bool = False,
        depth_start: float = 1,
        position_level: int = 0,
        position_range: Sequence[float] = (-65, -65, -8.0, 65, 65, 8.0),
        normedlinear: bool = False,
        old_boxes: bool = False,
        loss_cls: Mapping[str, Any] | None = None,
        loss_bbox: Mapping[str, Any] | None = None,
        loss_iou: Mapping[str, Any] | None = ZERO_LOSS,
        train_cfg: Mapping[str, Any] | None = None,
        test_cfg: Mapping[str, Any] | None = None,
        init_cfg: Any = None,
    ) -> None:
        super().__init__(
            num_classes,
            bbox_coder,
            train_cfg,
            losses=(loss_cls, loss_bbox, loss_iou),
            num_reg_fcs=num_reg_fcs,
            code_size=code_size,
            code_weights=code_weights,
            sync_cls_avg_factor=sync_cls_avg_factor,
        )
        if normedlinear:
            raise ValueError(f"{type(self).__name__}: normedlinear is not supported; set it False")
        self.init_cfg = init_cfg
        self.pc_range: tuple[float, ...] = self.bbox_coder.pc_range
        if old_boxes:
            self.box_code = replace(self.box_code, turned=True, width_first=True)
        self.num_query = num_query
        self.with_position = with_position
        self.with_multiview = with_multiview
        self.position_level = position_level
        self.position_range = tuple(position_range)
        self.depth = (float(depth_start), float(position_range[3]), int(depth_num), bool(LID))
        self.positional_encoding = MODELS.build(positional_encoding)
        self.transformer = MODELS.build(transformer)
        self.embed_dims: int = self.transformer.embed_dims
        self._build_layers(in_channels, 3 * depth_num, self.transformer.decoder.num_layers)

    def _build_layers(self, in_channels: int, position_dim: int, layers: int) -> None:
        C, count = self.embed_dims, max(PREDICTIONS, layers)
        self.input_proj = nn.Conv2d(in_channels, C, 1)
        self.cls_branches = self._branches(self._class_branch, count, self.separate_branches)
        self.reg_branches = self._branches(self._box_branch, count, self.separate_branches)
        sine, hidden = (C * 3 // 2, C * 4) if self.with_multiview else (C, C)
        self.adapt_pos3d = pixel_network(sine, hidden, C)
        if self.with_position:
            self.position_encoder = pixel_network(position_dim, C * 4, C)
        self.reference_points = nn.Embedding(self.num_query, 3)
        self.query_embedding = nn.Sequential(nn.Linear(C * 3 // 2, C), nn.ReLU(), nn.Linear(C, C))

    def init_weights(self) -> None:
        """Xavier initialization of the transformer, uniform references, a prior per class."""
        self.transformer.init_weights()
        nn.init.uniform_(self.reference_points.weight, 0, 1)
        self.set_class_prior()

    def forward(self, levels: Sequence[Tensor], views: Views) -> DETR3DOutput:
        """Feature maps, each [B, N, channels, h_l, w_l] -> all layers' logits and boxes."""
        features = self.project(levels)
        mask = self.cell_mask(views, features)
        position = self.embed_positions(features, views, mask)
        references = self.reference_points.weight.expand(features.shape[0], -1, -1)
        states = self.attend(features, position, mask, references)
        return self.read(states, references, views)

    def training_loss(
        self, levels: Sequence[Tensor], views: Views, targets: Sequence[Mapping[str, Tensor]]
    ) -> dict[str, Tensor]:
        """The losses of a batch; a head with denoising has further ones."""
        return self.loss(self(levels, views), targets)

    def project(self, levels: Sequence[Tensor]) -> Tensor:
        """The features [B, N, C, h, w] to which the queries attend."""
        level = levels[self.position_level]
        projected: Tensor = self.input_proj(level.flatten(0, 1))
        return projected.view(*level.shape[:2], *projected.shape[1:])

    def cell_mask(self, views: Views, features: Tensor) -> Tensor | None:
        """The mask [B, N, h, w] of padded cells, or None without padding."""
        if views.mask is None:
            return None
        resized = F.interpolate(views.mask.to(features.dtype), size=features.shape[-2:])
        return resized.to(torch.bool)

    def embed_positions(self, features: Tensor, views: Views, mask: Tensor | None) -> Tensor:
        """What is added to the keys [B, N, C, h, w]."""
        sine = self.embed_cells(features, mask)
        return sine + self.embed_points(features, views) if self.with_position else sine

    def embed_cells(self, features: Tensor, mask: Tensor | None) -> Tensor:
        """The embedding of camera, row and column of every cell, or of row and column."""
        B, N, _, h, w = features.shape
        if mask is None:
            mask = torch.zeros(1, N, h, w, dtype=torch.bool, device=features.device)
        if self.with_multiview:
            waves = self.positional_encoding(mask)  # [B, N, 3 * C / 2, h, w]
        else:
            waves = self.positional_encoding(mask.flatten(0, 1)).unflatten(0, mask.shape[:2])
            if not self.with_position:
                return waves.to(features.dtype).expand(B, -1, -1, -1, -1)
        waves = waves.to(features.dtype)
        adapted = encode_cells(self.adapt_pos3d, waves.flatten(0, 1))
        return adapted.view(*waves.shape[:2], *adapted.shape[1:]).expand(B, -1, -1, -1, -1)

    def embed_points(self, features: Tensor, views: Views) -> Tensor:
        """The embedding of the points on every cell's ray."""
        encoded = encode_cells(self.position_encoder, self.ray_logits(features, views))
        return self.gate_points(torch.unflatten(encoded, 0, features.shape[:2]), features)

    def ray_logits(self, features: Tensor, views: Views) -> Tensor:
        """Logits of the points' fractions of position_range [B * N, 3 * D, h, w]."""
        h, w = features.shape[-2:]
        height, width = views.image_size
        size: dict[str, Any] = {"dtype": torch.float32, "device": features.device}
        rows = torch.arange(h, **size) * height / h  # the upper left corner of the cell
        columns = torch.arange(w, **size) * width / w
        points = points_on_rays(
            frustum(columns, rows, depth_bins(*self.depth).to(features.device)),
            invert_cameras(views.lidar2img).to(torch.float32),
            torch.tensor(self.position_range, **size),
        )
        return position_input(points).to(features.dtype)

    def gate_points(self, position: Tensor, features: Tensor) -> Tensor:
        """The embedding of the points as it is added; PETRv2 weights it by the features."""
        return position

    def attend(
        self,
        features: Tensor,
        position: Tensor,
        mask: Tensor | None,
        references: Tensor,
        attn_mask: Tensor | None = None,
    ) -> Tensor:
        """The decoder's states [L, B, Q, C] of queries at the references [B or 1, Q, 3]."""
        query_pos = self.query_embedding(encode_points(references, self.embed_dims // 2))
        states: Tensor = self.transformer(
            torch.zeros_like(query_pos),
            query_pos,
            tokens(features),
            tokens(position),
            key_padding_mask=None if mask is None else mask.flatten(1),
            attn_mask=attn_mask,
        )
        return states

    def read(self, states: Tensor, references: Tensor, views: Views) -> DETR3DOutput:
        """Classes and boxes from the states [L, B, Q, C] and references [B, Q, 3]."""
        states = torch.nan_to_num(states)
        logits = [branch(s) for branch, s in zip(self.cls_branches, states, strict=False)]
        codes = [branch(s) for branch, s in zip(self.reg_branches, states, strict=False)]
        boxes = place_codes(torch.stack(codes), references, self.pc_range, self.box_code)
        return DETR3DOutput(torch.stack(logits), boxes)


def place_codes(
    codes: Tensor, references: Tensor, pc_range: Sequence[float] | Tensor, box_code: boxes3d.BoxCode
) -> Tensor:
    """Regressions [L, B, Q, 10] around references [B, Q, 3] -> codes with centers in meters."""
    z = box_code.z
    step = torch.cat((codes[..., :2], codes[..., z : z + 1]), -1)
    center = to_meters((step + inverse_sigmoid(references)).sigmoid(), pc_range)
    return torch.cat(
        (center[..., :2], codes[..., 2:z], center[..., 2:], codes[..., z + 1 :]), dim=-1
    )
