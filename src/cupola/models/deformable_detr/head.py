"""DeformableDETRHead: class and box branches per layer, boxes relative to references.

Letters: D decoder layers, B images, Q queries, C channels, S cells of all levels, K classes.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from cupola import nn
from cupola.models.deformable_detr.queries import Proposals
from cupola.models.detr.set_head import DETROutput, SetPredictionHead, Sizes, Targets
from cupola.models.layers import refine_boxes
from cupola.registry import MODELS
from cupola.registry.budget import reserve

PRIOR_PROBABILITY = 0.01  # of each class before training, which keeps the first losses small


@MODELS.register_module()
class DeformableDETRHead(SetPredictionHead):
    """States and references of every decoder layer -> DETROutput, losses, detections.

    `share_pred_layer`: all layers use the same two branches. With `as_two_stage` the last of
    `num_pred_layer` branches makes the proposals of the encoder. Only the nested head of 2.x has a
    `transformer`.
    Source: mmdet/models/dense_heads/deformable_detr_head.py; paper, appendix A.3 and A.4.
    """

    def __init__(
        self,
        *args: Any,
        share_pred_layer: bool = False,
        num_pred_layer: int = 6,
        as_two_stage: bool = False,
        transformer: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(*args, **settings)
        self.share_pred_layer = share_pred_layer
        self.as_two_stage = as_two_stage
        if transformer is not None:
            self.transformer = MODELS.build(transformer)
        self.build_branches(num_pred_layer)

    def build_layers(self, embed_dims: int, num_reg_fcs: int) -> None:
        """The branches are built later, when their number is known."""
        self.embed_dims = embed_dims
        self.num_reg_fcs = num_reg_fcs

    def build_branches(self, count: int) -> None:
        """`count` class and box branches, or one of each used by all layers."""
        self.cls_branches = self.branches(self.class_branch, count)
        self.reg_branches = self.branches(self.box_branch, count)
        if not self.as_two_stage:  # the first layer refines points, and learns sizes first
            nn.init.constant_(self.reg_branches[0][-1].bias[2:], -2.0)

    def branches(self, make: Callable[[], nn.Module], count: int) -> nn.ModuleList:
        reserve(count)
        if self.share_pred_layer:
            return nn.ModuleList([make()] * count)
        return nn.ModuleList(make() for _ in range(count))

    def class_branch(self) -> nn.Module:
        layer = nn.Linear(
            self.embed_dims, self.num_classes if self.use_sigmoid else self.num_classes + 1
        )
        if self.use_sigmoid:
            prior = -math.log((1 - PRIOR_PROBABILITY) / PRIOR_PROBABILITY)
            nn.init.constant_(layer.bias, prior)
        return layer

    def box_branch(self) -> nn.Module:
        parts: list[nn.Module] = []
        for _ in range(self.num_reg_fcs):
            parts += [nn.Linear(self.embed_dims, self.embed_dims), nn.ReLU()]
        last = nn.Linear(self.embed_dims, 4)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        return nn.Sequential(*parts, last)

    def forward(
        self, states: Tensor, references: Sequence[Tensor], last_only: bool = False
    ) -> DETROutput:
        """states [D, B, Q, C], references of each layer [B, Q, 2 or 4] -> DETROutput.

        `last_only`: of the last layer alone.
        """
        layers = list(enumerate(zip(states, references, strict=True)))[-1 if last_only else 0 :]
        logits = [self.cls_branches[i](state) for i, (state, _) in layers]
        boxes = [
            refine_boxes(reference, self.reg_branches[i](state)) for i, (state, reference) in layers
        ]
        return DETROutput(torch.stack(logits), torch.stack(boxes))

    def proposal_loss(
        self, proposals: Proposals, targets: Targets, sizes: Sizes
    ) -> dict[str, Tensor]:
        """enc_loss_cls, enc_loss_bbox and enc_loss_iou: every object is of class 0."""
        objects = [{**each, "labels": torch.zeros_like(each["labels"])} for each in targets]
        return self.encoder_loss(proposals, objects, sizes)

    def encoder_loss(
        self, proposals: Proposals, targets: Targets, sizes: Sizes
    ) -> dict[str, Tensor]:
        """The set loss of proposals, as if they came from one decoder layer."""
        output = DETROutput(proposals.logits[None], proposals.boxes.sigmoid()[None])
        return {f"enc_{name}": value for name, value in self.loss(output, targets, sizes).items()}
