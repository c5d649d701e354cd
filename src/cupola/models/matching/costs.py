"""Costs of matching a prediction with a ground-truth object.

Q queries, N objects of one image; any leading dimensions (decoder layers) are kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from cupola.registry import TASK_UTILS
from cupola.structures import boxes as box_ops


@dataclass(frozen=True)
class MatchInputs:
    """Predictions and objects of one image.

    logits [..., Q, C], boxes [..., Q, D], target_labels [N], target_boxes [N, D]. In 2-D the
    boxes are cxcywh in 0..1 and `image_size` = (height, width) in pixels.
    """

    logits: Tensor
    boxes: Tensor
    target_labels: Tensor
    target_boxes: Tensor
    image_size: tuple[int, int] = (1, 1)

    def layer(self, index: int) -> "MatchInputs":
        """The predictions of one decoder layer: logits [Q, C], boxes [Q, D]."""
        return replace(self, logits=self.logits[index], boxes=self.boxes[index])


@dataclass(frozen=True, kw_only=True)
class MaskMatchInputs(MatchInputs):
    """Predictions and objects of one image that are matched by masks; boxes are unused.

    masks [..., Q, P], logits at P pixels or sampled points; target_masks [N, P], 0..1.
    """

    masks: Tensor
    target_masks: Tensor


def match_inputs(
    logits: Tensor,
    boxes: Tensor,
    target_labels: Sequence[Tensor],
    target_boxes: Sequence[Tensor],
    image_sizes: Sequence[tuple[int, int]] | None = None,
) -> list[MatchInputs]:
    """Per image what is to be matched: logits [L, B, Q, C] and boxes [L, B, Q, D] of L layers."""
    sizes = image_sizes or [(1, 1)] * len(target_labels)
    images = zip(logits.unbind(1), boxes.unbind(1), target_labels, target_boxes, sizes, strict=True)
    return [MatchInputs(*image) for image in images]


@TASK_UTILS.register_module()
class ClassificationCost:
    """-softmax probability of the object's class. -> [..., Q, N]"""

    def __init__(self, weight: float = 1.0) -> None:
        self.weight = weight

    def __call__(self, match: MatchInputs) -> Tensor:
        return -match.logits.softmax(-1)[..., match.target_labels] * self.weight


@TASK_UTILS.register_module()
class FocalLossCost:
    """Focal loss of a positive minus that of a negative, on sigmoid scores. -> [..., Q, N]

    With `binary_input` the mean focal loss between masks.
    Source: mmdet/models/task_modules/assigners/match_cost.py.
    """

    def __init__(
        self,
        weight: float = 1.0,
        alpha: float = 0.25,
        gamma: float = 2.0,
        eps: float = 1e-12,
        binary_input: bool = False,
    ) -> None:
        self.weight = weight
        self.alpha = alpha
        self.gamma = gamma
        self.eps = eps
        self.binary_input = binary_input

    def __call__(self, match: MatchInputs) -> Tensor:
        if not self.binary_input:
            hit, miss = self._terms(match.logits)
            return (hit - miss)[..., match.target_labels] * self.weight
        logits, masks = masks_of(match, "FocalLossCost with binary_input")
        hit, miss = self._terms(logits)
        return (hit @ masks.T + miss @ (1 - masks.T)) / masks.shape[-1] * self.weight

    def _terms(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """The focal loss of each logit if its target is 1, and if it is 0."""
        score = logits.sigmoid()
        miss = -(1 - score + self.eps).log() * (1 - self.alpha) * score.pow(self.gamma)
        hit = -(score + self.eps).log() * self.alpha * (1 - score).pow(self.gamma)
        return hit, miss


@TASK_UTILS.register_module()
class BBoxL1Cost:
    """Sum of absolute differences of normalized boxes, in `box_format` xywh or xyxy."""

    def __init__(self, weight: float = 1.0, box_format: str = "xyxy") -> None:
        if box_format not in ("xyxy", "xywh"):
            raise ValueError(f"box_format is 'xyxy' or 'xywh', got {box_format!r}")
        self.weight = weight
        self.box_format = box_format

    def __call__(self, match: MatchInputs) -> Tensor:
        boxes, targets = match.boxes, match.target_boxes
        if self.box_format == "xyxy":
            boxes, targets = box_ops.cxcywh_to_xyxy(boxes), box_ops.cxcywh_to_xyxy(targets)
        return torch.cdist(boxes, targets, p=1) * self.weight


@TASK_UTILS.register_module()
class IoUCost:
    """-GIoU (or -IoU) of boxes in pixels. -> [..., Q, N]"""

    def __init__(self, iou_mode: str = "giou", weight: float = 1.0) -> None:
        if iou_mode not in ("giou", "iou"):
            raise ValueError(f"iou_mode is 'giou' or 'iou', got {iou_mode!r}")
        self.iou_mode = iou_mode
        self.weight = weight

    def __call__(self, match: MatchInputs) -> Tensor:
        overlap = box_ops.giou if self.iou_mode == "giou" else box_ops.iou
        boxes = box_ops.scale(box_ops.cxcywh_to_xyxy(match.boxes), match.image_size)
        targets = box_ops.scale(box_ops.cxcywh_to_xyxy(match.target_boxes), match.image_size)
        return -overlap(boxes[..., :, None, :], targets) * self.weight


def masks_of(match: MatchInputs, cost: str) -> tuple[Tensor, Tensor]:
    """Mask logits [..., Q, P] and targets [N, P] of the logits' type; ValueError without masks."""
    if not isinstance(match, MaskMatchInputs):
        raise ValueError(f"{cost} compares masks, and this model predicts none")
    return match.masks, match.target_masks.to(match.masks.dtype)


@TASK_UTILS.register_module()
class CrossEntropyLossCost:
    """Mean binary cross entropy between masks. -> [..., Q, N]"""

    def __init__(self, weight: float = 1.0, use_sigmoid: bool = True) -> None:
        if not use_sigmoid:
            raise ValueError("CrossEntropyLossCost compares masks by sigmoid: set use_sigmoid=True")
        self.weight = weight

    def __call__(self, match: MatchInputs) -> Tensor:
        logits, targets = masks_of(match, "CrossEntropyLossCost")
        # -log sigmoid(x) = softplus(-x) where the target is 1, softplus(x) = softplus(-x) + x else
        hit = F.softplus(-logits)
        total = hit @ targets.T + (hit + logits) @ (1 - targets.T)
        return total / targets.shape[-1] * self.weight


@TASK_UTILS.register_module()
class DiceCost:
    """Dice loss between masks. -> [..., Q, N]

    `pred_act` applies the sigmoid; without `naive_dice` the denominator sums squares.
    """

    def __init__(
        self,
        weight: float = 1.0,
        pred_act: bool = False,
        eps: float = 1e-3,
        naive_dice: bool = True,
    ) -> None:
        self.weight = weight
        self.pred_act = pred_act
        self.eps = eps
        self.power = 1 if naive_dice else 2

    def __call__(self, match: MatchInputs) -> Tensor:
        masks, targets = masks_of(match, "DiceCost")
        if self.pred_act:
            masks = masks.sigmoid()
        sums = masks.pow(self.power).sum(-1)[..., None] + targets.pow(self.power).sum(-1)
        return (1 - (2 * masks @ targets.T + self.eps) / (sums + self.eps)) * self.weight
