"""BEVFormerHead: a learned grid around the vehicle, and the objects in it.

Letters: L layers, B samples, N cameras, Q queries, K cells, C channels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from cupola import nn
from cupola.errors import BuildError
from cupola.models.bevformer.motion import Motion
from cupola.models.detr3d.box_head import BoxHead3D, DETR3DOutput
from cupola.models.detr3d.decoder import DecoderOutput
from cupola.models.detr3d.feature_sampling import Cameras
from cupola.models.detr3d.head import RELU
from cupola.models.detr3d.references import place_boxes
from cupola.models.layers import build_activation
from cupola.registry import MODELS


@MODELS.register_module()
class BEVFormerHead(BoxHead3D):
    """Queries of the grid and of the objects, branches per layer, matching, losses, box coder.

    Parts are built in the original's order, which determines the random initial weights.
    `old_boxes` True reads and writes codes as MMDetection3D did before version 1.0, for which all
    published checkpoints were trained.
    Sources: BEVFormer (arXiv 2203.17270); bevformer_head.py.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        transformer: Mapping[str, Any],
        bbox_coder: Mapping[str, Any],
        bev_h: int = 30,
        bev_w: int = 30,
        num_query: int = 100,
        num_reg_fcs: int = 2,
        num_cls_fcs: int = 2,
        sync_cls_avg_factor: bool = False,
        with_box_refine: bool = False,
        as_two_stage: bool = False,
        code_weights: Sequence[float] | None = None,
        code_size: int = 10,
        old_boxes: bool = False,
        positional_encoding: Mapping[str, Any] | None = None,
        loss_cls: Mapping[str, Any] | None = None,
        loss_bbox: Mapping[str, Any] | None = None,
        loss_iou: Mapping[str, Any] | None = None,
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
        if as_two_stage:
            raise BuildError("BEVFormerHead: as_two_stage is not defined; set it to False")
        if positional_encoding is None:
            raise BuildError("BEVFormerHead needs positional_encoding, for cells of bev_h x bev_w")
        self.init_cfg = init_cfg
        self.pc_range: tuple[float, ...] = self.bbox_coder.pc_range
        if old_boxes:
            self.box_code = replace(self.box_code, turned=True, width_first=True)
        self.size = (bev_h, bev_w)
        self.in_channels = in_channels
        self.num_query = num_query
        self.with_box_refine = with_box_refine
        self.activate = build_activation(transformer.get("act_cfg", RELU))
        self.positional_encoding = MODELS.build(positional_encoding)
        self._check_positions()
        self.transformer = MODELS.build(transformer)
        self.embed_dims: int = self.transformer.embed_dims
        layers = self.transformer.decoder.num_layers
        self.cls_branches = self._branches(self._class_branch, layers, with_box_refine)
        self.reg_branches = self._branches(self._box_branch, layers, with_box_refine)
        self.bev_embedding = nn.Embedding(bev_h * bev_w, self.embed_dims)
        self.query_embedding = nn.Embedding(num_query, 2 * self.embed_dims)

    def _check_positions(self) -> None:
        """BuildError if a learned encoding has too few rows or columns."""
        rows = getattr(self.positional_encoding, "row_embed", None)
        columns = getattr(self.positional_encoding, "col_embed", None)
        if rows is None or columns is None:
            return
        known = len(rows.weight), len(columns.weight)
        if known[0] < self.size[0] or known[1] < self.size[1]:
            raise BuildError(
                f"BEVFormerHead: a grid of {self.size[0]} x {self.size[1]} cells needs as many "
                f"rows and columns in positional_encoding, which has {known[0]} x {known[1]}"
            )

    def init_weights(self) -> None:
        """Xavier initialization of the transformer, and a prior of 0.01 for every class."""
        self.transformer.init_weights()
        self.set_class_prior()

    def forward(
        self, levels: Sequence[Tensor], cameras: Cameras, motion: Motion
    ) -> tuple[DETR3DOutput, Tensor]:
        """Feature maps, each [B, N, C, h, w] -> logits and boxes, and the view [B, K, C]."""
        bev = self.see(levels, cameras, motion)
        return self.read(bev), bev

    def see(self, levels: Sequence[Tensor], cameras: Cameras, motion: Motion) -> Tensor:
        """The bird's-eye view [B, K, C]; its rows run along y and its columns along x."""
        B = len(levels[0])
        no_mask = torch.zeros(1, *self.size, dtype=torch.bool, device=levels[0].device)
        position = self.positional_encoding(no_mask).flatten(2).transpose(1, 2)  # [1, K, C]
        x0, y0, _, x1, y1, _ = self.pc_range
        bev: Tensor = self.transformer.see(
            levels,
            self.bev_embedding.weight,
            position.to(levels[0].dtype).expand(B, -1, -1),
            motion,
            cameras,
            self.size,
            (y1 - y0, x1 - x0),
        )
        return bev

    def decode(self, bev: Tensor) -> DecoderOutput:
        """States and reference points of all decoder layers."""
        branches = self.reg_branches if self.with_box_refine else None
        decoded: DecoderOutput = self.transformer.decode(
            bev, self.query_embedding.weight, self.size, branches
        )
        return decoded

    def read(self, bev: Tensor) -> DETR3DOutput:
        """Logits and boxes of all layers from the bird's-eye view [B, K, C]."""
        decoded = self.decode(bev)
        pairs = list(zip(self.cls_branches, self.reg_branches, decoded.states, strict=True))
        logits = torch.stack([classes(state) for classes, _, state in pairs])
        steps = decoded.regressions
        if steps is None:
            steps = torch.stack([boxes(state) for _, boxes, state in pairs])
        boxes = place_boxes(decoded.references, steps, self.pc_range).to(steps.dtype)
        return DETR3DOutput(logits, boxes)
