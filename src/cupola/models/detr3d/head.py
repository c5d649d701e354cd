"""DETR3DHead: classes and boxes of every query of every layer.

Letters: L layers, B samples, Q queries, C classes, M objects.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from cupola import nn
from cupola.models.detr3d.box_head import CODE_WEIGHTS, BoxHead3D, DETR3DOutput
from cupola.models.detr3d.decoder import DecoderOutput
from cupola.models.detr3d.feature_sampling import Cameras, Pyramid
from cupola.models.detr3d.references import place_boxes
from cupola.models.layers import build_activation
from cupola.registry import MODELS

RELU: Mapping[str, Any] = {"type": "ReLU", "inplace": True}


@MODELS.register_module(["DETR3DHead", "Detr3DHead"])
class DETR3DHead(BoxHead3D):
    """The published head: transformer, branches per layer, matching, losses, box coder.

    Parts are built in the original's order, which determines the random initial weights. The
    position encoding and the IoU loss are built but not used, as in the original.
    Sources: DETR3D (arXiv 2110.06922), section 3.4; detr3d_head.py of both repositories.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        transformer: Mapping[str, Any],
        bbox_coder: Mapping[str, Any],
        num_query: int = 100,
        num_reg_fcs: int = 2,
        num_cls_fcs: int = 2,
        sync_cls_avg_factor: bool = False,
        with_box_refine: bool = False,
        as_two_stage: bool = False,
        code_weights: Sequence[float] = CODE_WEIGHTS,
        code_size: int = 10,
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
            raise ValueError("DETR3DHead: as_two_stage is not defined in 3-D; set it to False")
        self.init_cfg = init_cfg
        self.pc_range: tuple[float, ...] = self.bbox_coder.pc_range
        self.in_channels = in_channels
        self.num_query = num_query
        self.with_box_refine = with_box_refine
        self.activate = build_activation(transformer.get("act_cfg", RELU))
        self.positional_encoding = (
            MODELS.build(positional_encoding) if positional_encoding else None
        )
        self.transformer = MODELS.build(transformer)
        self.embed_dims: int = self.transformer.embed_dims
        layers = self.transformer.decoder.num_layers
        self.cls_branches = self._branches(self._class_branch, layers, with_box_refine)
        self.reg_branches = self._branches(self._box_branch, layers, with_box_refine)
        self.query_embedding = nn.Embedding(num_query, 2 * self.embed_dims)

    def init_weights(self) -> None:
        """Xavier initialization of the transformer, and a prior of 0.01 for every class."""
        self.transformer.init_weights()
        self.set_class_prior()

    def forward(self, levels: Sequence[Tensor], cameras: Cameras) -> DETR3DOutput:
        """Feature maps, each [B, N, channels, H_l, W_l] -> all layers' logits and boxes."""
        return self.read(self.decode(levels, cameras))

    def decode(self, levels: Sequence[Tensor], cameras: Cameras) -> DecoderOutput:
        """States and reference points of all decoder layers."""
        branches = self.reg_branches if self.with_box_refine else None
        pyramid = Pyramid(tuple(levels))
        return self.transformer(pyramid, self.query_embedding.weight, cameras, branches)

    def read(self, decoded: DecoderOutput) -> DETR3DOutput:
        """Classes and boxes from the output of the decoder."""
        logits, regressions = [], []
        for layer, state in enumerate(decoded.states):
            logits.append(self.cls_branches[layer](state))
            if decoded.regressions is None:
                regressions.append(self.reg_branches[layer](state))
        steps = torch.stack(regressions) if decoded.regressions is None else decoded.regressions
        boxes = place_boxes(decoded.references, steps, self.pc_range).to(steps.dtype)
        return DETR3DOutput(torch.stack(logits), boxes)
