"""DETR3DHead: classes and boxes of every query of every layer, their targets and their loss.

Letters: L layers, B samples, Q queries, C classes, M objects.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cupola import nn
from cupola.models.detr3d.decoder import DecoderOutput
from cupola.models.detr3d.feature_sampling import Cameras, Pyramid
from cupola.models.detr3d.references import place_boxes
from cupola.models.layers import build_activation
from cupola.models.matching import match_inputs
from cupola.models.set_prediction import (
    QueryTargets,
    box_normalizer,
    class_loss,
    name_by_layer,
    query_targets,
    targets_by_layer,
)
from cupola.parallel import SINGLE, Group
from cupola.registry import MODELS, TASK_UTILS
from cupola.structures import Detections3D, boxes3d

RELU: Mapping[str, Any] = {"type": "ReLU", "inplace": True}
# (cx, cy, l, w, cz, h, sin, cos, vx, vy): velocity is the hardest to infer and has less weight.
CODE_WEIGHTS = (1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.2, 0.2)
PRIOR_PROBABILITY = 0.01  # of each class before training, which keeps the first losses small


class DETR3DOutput(NamedTuple):
    """logits: [L, B, Q, C]. boxes: [L, B, Q, 10], codes with centers in meters; last layer last."""

    logits: Tensor
    boxes: Tensor


@MODELS.register_module(["DETR3DHead", "Detr3DHead"])
class DETR3DHead(nn.Module):
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
        super().__init__()
        if as_two_stage:
            raise ValueError("DETR3DHead: as_two_stage is not defined in 3-D; set it to False")
        self.init_cfg = init_cfg
        self.num_classes = num_classes
        self.in_channels = in_channels
        self.num_query = num_query
        self.num_reg_fcs = num_reg_fcs
        self.sync_cls_avg_factor = sync_cls_avg_factor
        self.data_group: Group = SINGLE  # set by the trainer: the ranks that read other data
        self.with_box_refine = with_box_refine
        self.code_size = code_size
        self.bbox_coder = TASK_UTILS.build(bbox_coder)
        self.pc_range: tuple[float, ...] = self.bbox_coder.pc_range
        self.assigner = TASK_UTILS.build(train_cfg["assigner"]) if train_cfg else None
        self.sampler = TASK_UTILS.build({"type": "PseudoSampler"})
        self.loss_cls = MODELS.build(loss_cls) if loss_cls else None
        self.loss_bbox = MODELS.build(loss_bbox) if loss_bbox else None
        self.loss_iou = MODELS.build(loss_iou) if loss_iou else None
        self.activate = build_activation(transformer.get("act_cfg", RELU))
        self.positional_encoding = (
            MODELS.build(positional_encoding) if positional_encoding else None
        )
        self.transformer = MODELS.build(transformer)
        self.embed_dims: int = self.transformer.embed_dims
        layers = self.transformer.decoder.num_layers
        self.cls_branches = self._branches(self._class_branch, layers)
        self.reg_branches = self._branches(self._box_branch, layers)
        self.query_embedding = nn.Embedding(num_query, 2 * self.embed_dims)
        self.code_weights = nn.Parameter(
            torch.tensor(tuple(code_weights)[:code_size]), requires_grad=False
        )

    def _class_branch(self) -> nn.Sequential:
        parts: list[nn.Module] = []
        for _ in range(self.num_reg_fcs):
            parts += [
                nn.Linear(self.embed_dims, self.embed_dims),
                nn.LayerNorm(self.embed_dims),
                nn.ReLU(inplace=True),
            ]
        return nn.Sequential(*parts, nn.Linear(self.embed_dims, self.num_classes))

    def _box_branch(self) -> nn.Sequential:
        parts: list[nn.Module] = []
        for _ in range(self.num_reg_fcs):
            parts += [nn.Linear(self.embed_dims, self.embed_dims), nn.ReLU()]
        return nn.Sequential(*parts, nn.Linear(self.embed_dims, self.code_size))

    def _branches(self, make: Callable[[], nn.Module], count: int) -> nn.ModuleList:
        """One branch per layer with equal values; without refinement, one for all layers.

        The original initializes one branch and copies it, so the copies must not advance the random
        generator.
        """
        first = make()
        if not self.with_box_refine:
            return nn.ModuleList([first] * count)
        with torch.random.fork_rng(devices=[]):
            others = [make() for _ in range(count - 1)]
        for branch in others:
            for copy, value in zip(branch.parameters(), first.parameters(), strict=True):
                copy.data.copy_(value.data)
        return nn.ModuleList([first, *others])

    def init_weights(self) -> None:
        """Xavier initialization of the transformer, and a prior of 0.01 for every class."""
        self.transformer.init_weights()
        bias = -torch.log(torch.tensor((1 - PRIOR_PROBABILITY) / PRIOR_PROBABILITY)).item()
        for branch in self.cls_branches:
            nn.init.constant_(branch[-1].bias, bias)

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
        boxes = place_boxes(decoded.references, steps, self.pc_range)
        return DETR3DOutput(torch.stack(logits), boxes)

    def predict(self, output: DETR3DOutput) -> list[Detections3D]:
        """Detections of every sample, from the last layer."""
        pairs = zip(output.logits[-1], output.boxes[-1], strict=True)
        return [self.bbox_coder.decode(logits, codes) for logits, codes in pairs]

    def loss(
        self, output: DETR3DOutput, targets: Sequence[Mapping[str, Tensor]]
    ) -> dict[str, Tensor]:
        """loss_cls and loss_bbox of the last layer, and d0., d1., ... of those before.

        targets[b]: boxes [N, 9] with z at the bottom, labels [N].
        """
        labels = [target["labels"] for target in targets]
        boxes = [boxes3d.bottom_to_center(target["boxes"]) for target in targets]
        samples = [
            query_targets(assigned, label, boxes3d.encode_boxes(box), self.num_classes)
            for assigned, label, box in zip(
                self.match(output, labels, boxes), labels, boxes, strict=True
            )
        ]
        return name_by_layer(
            [
                self._layer_loss(*layer)
                for layer in zip(
                    output.logits, output.boxes, targets_by_layer(samples), strict=True
                )
            ]
        )

    def match(
        self, output: DETR3DOutput, labels: Sequence[Tensor], boxes: Sequence[Tensor]
    ) -> list[Tensor]:
        """Per sample the object of every query of every layer, [L, Q], -1 for background.

        boxes[b]: [N, 9], z at the center.
        """
        if self.assigner is None or self.loss_cls is None or self.loss_bbox is None:
            raise ValueError(
                "this DETR3DHead was built without training parts; give it loss_cls, loss_bbox "
                "and train_cfg=dict(assigner=...)"
            )
        codes = [boxes3d.encode_boxes(each) for each in boxes]
        result: list[Tensor] = self.assigner.assign(
            match_inputs(output.logits, output.boxes, labels, codes)
        )
        return result

    def _layer_loss(
        self, logits: Tensor, codes: Tensor, targets: QueryTargets
    ) -> dict[str, Tensor]:
        assert self.loss_cls is not None and self.loss_bbox is not None
        group = self.data_group if self.sync_cls_avg_factor else SINGLE
        classes = class_loss(self.loss_cls, logits, targets, group=group)
        found, wanted = codes[targets.positive], targets.boxes[targets.positive]  # [P, 10]
        valid = wanted.isfinite().all(-1)  # a side of 0 has no logarithm
        weight = self.code_weights.expand_as(wanted)
        regression = self.loss_bbox(
            found[valid],
            wanted[valid],
            weight[valid],
            avg_factor=box_normalizer(targets, self.data_group),
        )
        return {
            "loss_cls": torch.nan_to_num(classes),
            "loss_bbox": torch.nan_to_num(regression),
        }
