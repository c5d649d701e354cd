"""AutoAssign and its head.

Letters: B images, C classes, S cells of all levels, N objects of an image.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from cupola import nn
from cupola.models.autoassign.prior import CenterPrior
from cupola.models.boxes.distances import boxes_around, centers, distances
from cupola.models.dense import ImageSizes, SingleStageDetector, grid_points
from cupola.models.fcos.head import FCOSHead
from cupola.models.fcos.output import FCOSOutput
from cupola.registry import MODELS
from cupola.structures.boxes import pairwise_iou

EPS = 1e-12
SHARPNESS = 3  # of the weights of positive cells, by their confidence
INITIAL = {
    "type": "Normal",
    "layer": "Conv2d",
    "std": 0.01,
    "override": [
        {"type": "Normal", "name": "conv_cls", "std": 0.01, "bias_prob": 0.02},
        {"type": "Normal", "name": "conv_reg", "std": 0.01, "bias": 4.0},
    ],
}


class ImageCells(NamedTuple):
    """Of the cells of one image: scores [S, C] and objectness [S, 1], 0..1, and boxes [S, 4].

    weights [S, N] are the prior's; inside [S, N], bool, whether a cell is in an object.
    """

    scores: Tensor
    objectness: Tensor
    boxes: Tensor
    weights: Tensor
    inside: Tensor


@MODELS.register_module()
class AutoAssign(SingleStageDetector):
    """Source: mmdet/models/detectors/autoassign.py."""


@MODELS.register_module()
class AutoAssignHead(FCOSHead):
    """An FCOSHead whose centerness is an objectness, and whose cells all train.

    The points are the upper left corners of cells; distances are predicted in strides.
    Source: mmdet/models/dense_heads/autoassign_head.py.
    """

    offset = 0.0

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        force_topk: bool = False,
        topk: int = 9,
        pos_loss_weight: float = 0.25,
        neg_loss_weight: float = 0.75,
        center_loss_weight: float = 0.75,
        **options: Any,
    ) -> None:
        options = {"init_cfg": INITIAL, **options, "conv_bias": True}
        super().__init__(num_classes, in_channels, **options)
        if not hasattr(self.loss_bbox, "each"):
            raise ValueError("AutoAssign's loss_bbox is GIoULoss or another loss of pairs of boxes")
        self.center_prior = CenterPrior(num_classes, force_topk, topk)
        self.positive_weight, self.negative_weight = pos_loss_weight, neg_loss_weight
        self.center_weight = center_loss_weight

    def predictions(
        self, for_class: Tensor, for_box: Tensor, scale: nn.Module, stride: int
    ) -> tuple[Tensor, ...]:
        """Features of a level -> logits, distances in pixels and logits of the objectness."""
        sides = scale(self.conv_reg(for_box))
        sides = sides.to(torch.promote_types(sides.dtype, torch.float32)).clamp(min=0) * stride
        return self.conv_cls(for_class), sides, self.conv_centerness(for_box)

    def loss(
        self, output: FCOSOutput, targets: Sequence[Mapping[str, Tensor]], sizes: ImageSizes
    ) -> dict[str, Tensor]:
        """loss_pos, loss_neg and loss_center."""
        images = self.cells(output, targets)
        count = sum(len(each["labels"]) for each in targets)
        positive, negative, central = [], [], []
        for image, target in zip(images, targets, strict=True):
            positive.append(self.positive_loss(image, target))
            negative.append(self.negative_loss(image, target))
            total = image.weights.sum()
            number = len(target["labels"])
            inside = bool(image.inside.any())
            central.append(number / total.clamp(min=EPS) if inside else total * 0)
        weight = torch.stack([each.weights.detach().sum() for each in images]).sum()
        average = self._average(weight, 1.0)
        objects = self._average(output.logits[0].new_tensor(float(count)), 1.0)
        losses = {
            "loss_pos": self.positive_weight * torch.stack(positive).sum() / objects,
            "loss_neg": self.negative_weight * torch.stack(negative).sum() / average,
            "loss_center": self.center_weight * torch.stack(central).mean(),
        }
        if not count:  # every parameter has a gradient, as other ranks expect
            nothing = sum(part.sum() for part in (*output.sides, *output.centerness))
            prior = self.center_prior.mean.sum() + self.center_prior.sigma.sum()
            losses["loss_pos"] = losses["loss_center"] = (nothing + prior) * 0
        return losses

    def cells(
        self, output: FCOSOutput, targets: Sequence[Mapping[str, Tensor]]
    ) -> list[ImageCells]:
        """The cells of every image, and how likely the prior takes them for positive."""
        levels = grid_points(output.logits, self.strides, self.offset)
        points = torch.cat(levels)
        found = []
        for logits, sides, central, target in zip(*self.joined(output), targets, strict=True):
            objects = target["boxes"].to(points)
            inside = distances(points[:, None], objects).amin(-1) > 0  # [S, N]
            prior = self.center_prior(
                levels, self.strides, centers(objects), target["labels"], inside
            )
            boxes = boxes_around(points, sides)
            found.append(ImageCells(logits.sigmoid(), central.sigmoid(), boxes, *prior))
        return found

    def positive_loss(self, image: ImageCells, target: Mapping[str, Tensor]) -> Tensor:
        """-log of the confidence of every object: a mean over its cells (equation 4)."""
        objects = target["boxes"].to(image.boxes)
        S, N = len(image.boxes), len(objects)
        pairs = (
            image.boxes[:, None].expand(S, N, 4).flatten(0, 1),
            objects.expand(S, N, 4).flatten(0, 1),
        )
        away = self.loss_bbox.loss_weight * self.loss_bbox.each(*pairs).view(S, N)
        confidence = (image.scores * image.objectness)[:, target["labels"]] * (-away).exp()
        weight = (SHARPNESS * confidence).exp() * image.weights
        weight = weight / weight.sum(0, keepdim=True).clamp(min=EPS)
        joint = (confidence * weight).sum(0)  # [N]
        return F.binary_cross_entropy(joint, torch.ones_like(joint), reduction="sum")

    def negative_loss(self, image: ImageCells, target: Mapping[str, Tensor]) -> Tensor:
        """Focal entropies of all classes of all cells, less where a box fits (equation 6)."""
        joint = image.scores * image.objectness
        weight = torch.ones_like(joint)
        objects = target["boxes"].to(image.boxes)
        if len(objects):
            overlap = pairwise_iou(image.boxes.detach(), objects).amax(1)  # [S]
            fit = 1 / (1 - overlap).clamp(min=EPS)
            for number, label in enumerate(target["labels"].tolist()):
                own = image.inside[:, number]
                if own.any():
                    low, high = fit[own].min(), fit[own].max()
                    weight[own, label] = 1 - (fit[own] - low + EPS) / (high - low + EPS)
        joint = joint * weight
        entropy = F.binary_cross_entropy(joint, torch.zeros_like(joint), reduction="none")
        return (joint.square() * entropy).sum()
