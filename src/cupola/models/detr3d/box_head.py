"""BoxHead3D: what the heads of multi-camera detectors share: branches, matching, loss, decoding.

Letters: L layers, B samples, Q queries, C classes, M objects.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cupola import nn
from cupola.models.detr3d.matching import MATCHED_CHANNELS
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

# (cx, cy, l, w, cz, h, sin, cos, vx, vy): velocity is the hardest to infer and has less weight.
CODE_WEIGHTS = (1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.2, 0.2)
PRIOR_PROBABILITY = 0.01  # of each class before training, which keeps the first losses small


class DETR3DOutput(NamedTuple):
    """logits: [L, B, Q, C]. boxes: [L, B, Q, 10], codes with centers in meters; last layer last."""

    logits: Tensor
    boxes: Tensor


class BoxHead3D(nn.Module):
    """Coder, matching and losses of a head whose layers give logits and box codes.

    `losses` are the configs of class, box and IoU loss; the last one is built and not used, as in
    the originals. A subclass has the branches and the forward pass. `box_code` tells how its codes
    are ordered.
    """

    cls_branches: nn.ModuleList
    embed_dims: int
    box_code = boxes3d.BoxCode()
    matched_channels = MATCHED_CHANNELS

    def __init__(
        self,
        num_classes: int,
        bbox_coder: Mapping[str, Any],
        train_cfg: Mapping[str, Any] | None,
        *,
        losses: Sequence[Mapping[str, Any] | None],
        num_reg_fcs: int = 2,
        code_size: int = 10,
        code_weights: Sequence[float] | None = None,
        sync_cls_avg_factor: bool = False,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.num_reg_fcs = num_reg_fcs
        self.code_size = code_size
        self.sync_cls_avg_factor = sync_cls_avg_factor
        self.data_group: Group = SINGLE  # set by the trainer: the ranks that read other data
        self.bbox_coder = TASK_UTILS.build(bbox_coder)
        self.assigner = TASK_UTILS.build(train_cfg["assigner"]) if train_cfg else None
        self.sampler = TASK_UTILS.build({"type": "PseudoSampler"})
        self.loss_cls, self.loss_bbox, self.loss_iou = (
            MODELS.build(loss) if loss else None for loss in losses
        )
        weights = tuple(code_weights or CODE_WEIGHTS)[:code_size]
        self.code_weights = nn.Parameter(torch.tensor(weights), requires_grad=False)

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

    @staticmethod
    def _branches(make: Callable[[], nn.Module], count: int, separate: bool) -> nn.ModuleList:
        """One branch for all layers, or separate ones with equal values.

        The originals initialize one branch and copy it, so the copies must not advance the random
        generator.
        """
        first = make()
        if not separate:
            return nn.ModuleList([first] * count)
        with torch.random.fork_rng(devices=[]):
            others = [make() for _ in range(count - 1)]
        for branch in others:
            for copy, value in zip(branch.parameters(), first.parameters(), strict=True):
                copy.data.copy_(value.data)
        return nn.ModuleList([first, *others])

    def set_class_prior(self) -> None:
        """Makes every class as likely as PRIOR_PROBABILITY before training."""
        bias = -math.log((1 - PRIOR_PROBABILITY) / PRIOR_PROBABILITY)
        for branch in self.cls_branches:
            nn.init.constant_(branch[-1].bias, bias)

    def predict(self, output: DETR3DOutput) -> list[Detections3D]:
        """Detections of every sample, from the last layer."""
        pairs = zip(output.logits[-1], output.boxes[-1], strict=True)
        return [self.bbox_coder.decode(logits, codes, self.box_code) for logits, codes in pairs]

    def loss(
        self, output: DETR3DOutput, targets: Sequence[Mapping[str, Tensor]]
    ) -> dict[str, Tensor]:
        """loss_cls and loss_bbox of the last layer, and d0., d1., ... of those before.

        targets[b]: boxes [N, 9] with z at the bottom, labels [N].
        """
        labels = [target["labels"] for target in targets]
        boxes = [boxes3d.bottom_to_center(target["boxes"]) for target in targets]
        samples = [
            query_targets(assigned, label, self.box_code.encode(box), self.num_classes)
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
                f"this {type(self).__name__} was built without training parts; give it loss_cls, "
                "loss_bbox and train_cfg=dict(assigner=...)"
            )
        codes = [self.box_code.encode(each) for each in boxes]
        predicted, weights = output.boxes, self.matching_weights()
        if weights is not None:
            predicted = predicted * weights
            codes = [each * weights for each in codes]
        result: list[Tensor] = self.assigner.assign(
            match_inputs(output.logits, predicted, labels, codes), self.matched_channels
        )
        return result

    def matching_weights(self) -> Tensor | None:
        """By what the numbers of a code are multiplied before they are compared [10]; None is 1."""
        return None

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
