"""What MaskFormer and Mask2Former share: outputs, targets, and the losses of a decoder layer.

Each query predicts a class and a mask; a set loss matches queries with the segments of an image.

Letters: L decoder layers, B images, Q queries, C classes, N segments of one image, H and W the
padded images, h and w the masks (at stride 4), M matched queries of a batch.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cupola import nn
from cupola.models.set_prediction import name_by_layer
from cupola.parallel import SINGLE, Group, mean_over_ranks
from cupola.registry import MODELS, TASK_UTILS
from cupola.registry.budget import reserve
from cupola.structures.masks import pad_masks

Config = Mapping[str, Any]


class MaskOutput(NamedTuple):
    """logits [L, B, Q, C + 1], background last; masks [L, B, Q, h, w], logits at stride 4.

    One entry per decoder layer, the last layer last.
    """

    logits: Tensor
    masks: Tensor

    def at_least_float32(self) -> "MaskOutput":
        """The same, half precision converted to float32."""
        return MaskOutput(*(t.to(torch.promote_types(t.dtype, torch.float32)) for t in self))


class Segments(NamedTuple):
    """The ground truth of one image: labels [N], int64; masks [N, H, W], bool, padded."""

    labels: Tensor
    masks: Tensor


@TASK_UTILS.register_module()
class MaskPseudoSampler:
    """Takes all matched queries and no others, which is all that mask classification needs."""


def segments_of(targets: Sequence[Mapping[str, Tensor]], size: tuple[int, int]) -> list[Segments]:
    """Labels and masks of every image, masks padded to the batch's (height, width)."""
    for target in targets:
        if "masks" not in target:
            raise ValueError("targets need masks to train this model: load annotations with_mask")
    return [Segments(each["labels"], pad_masks(each["masks"], size)) for each in targets]


def query_labels(assigned: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """The class of each query from the segment of each, -1 for none: [Q] -> [Q], int64."""
    wanted = torch.full_like(assigned, num_classes)
    matched = assigned >= 0
    wanted[matched] = labels[assigned[matched]]
    return wanted


def matched_masks(
    masks: Tensor, segments: Sequence[Segments], assigned: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """Masks [B, Q, h, w] of matched queries [M, h, w], and their segments' masks [M, H, W]."""
    queries = torch.cat([each[a >= 0] for each, a in zip(masks, assigned, strict=True)])
    wanted = [each.masks[a[a >= 0]] for each, a in zip(segments, assigned, strict=True)]
    return queries, torch.cat(wanted)


# (mask logits [B, Q, h, w], class logits [B, Q, C + 1], segments) -> segment of each query, [Q]
Match = Callable[[Tensor, Tensor, Sequence[Segments]], list[Tensor]]
# (mask logits [M, h, w], targets [M, H, W], normalizer) -> loss_mask, loss_dice
MaskLoss = Callable[[Tensor, Tensor, float], tuple[Tensor, Tensor]]


class MaskCriterion(nn.Module):
    """The class loss and the modules of the mask losses, with the assigner that matches.

    Source: mmdet/models/dense_heads/maskformer_head.py, _loss_by_feat_single.
    """

    def __init__(
        self,
        num_classes: int,
        loss_cls: Config,
        loss_mask: Config,
        loss_dice: Config,
        assigner: Config,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        reserve(num_classes)
        self.class_weight = list(loss_cls.get("class_weight") or [1.0] * (num_classes + 1))
        if len(self.class_weight) != num_classes + 1:
            raise ValueError(
                f"loss_cls.class_weight has {len(self.class_weight)} numbers; one for each of "
                f"{num_classes} classes and one for the background are needed"
            )
        self.loss_cls = MODELS.build(loss_cls)
        self.loss_mask = MODELS.build(loss_mask)
        self.loss_dice = MODELS.build(loss_dice)
        self.assigner = TASK_UTILS.build(assigner)

    def forward(
        self,
        output: MaskOutput,
        segments: Sequence[Segments],
        match: Match,
        mask_loss: MaskLoss,
        group: Group = SINGLE,
    ) -> dict[str, Tensor]:
        """loss_cls, loss_mask and loss_dice of the last layer, d0., d1., ... of those before.

        Mask losses are divided by the mean number of matched queries over `group`, for which an
        image without segments counts as one.
        """
        layers = []
        for logits, masks in zip(*output.at_least_float32(), strict=True):
            assigned = match(masks, logits, segments)
            queries, wanted = matched_masks(masks, segments, assigned)
            matched = sum(max(int((each >= 0).sum()), 1) for each in assigned)
            count = mean_over_ranks(masks.new_tensor(float(matched)), group)
            if len(queries):
                losses = mask_loss(queries, wanted, max(float(count), 1.0))
            else:
                losses = queries.sum(), queries.sum()
            loss_cls = self.class_loss(logits, segments, assigned)
            layers.append({"loss_cls": loss_cls, "loss_mask": losses[0], "loss_dice": losses[1]})
        return name_by_layer(layers)

    def class_loss(
        self, logits: Tensor, segments: Sequence[Segments], assigned: Sequence[Tensor]
    ) -> Tensor:
        """The class loss of one layer [B, Q, C + 1], over the sum of its targets' weights."""
        labels = torch.cat(
            [
                query_labels(each, image.labels, self.num_classes)
                for each, image in zip(assigned, segments, strict=True)
            ]
        )
        total = logits.new_tensor(self.class_weight)[labels].sum()
        loss: Tensor = self.loss_cls(logits.flatten(0, 1), labels, avg_factor=total)
        return loss


def mask_embedding(channels: int, out_channels: int) -> nn.Sequential:
    """Three linear layers that turn a query into the weights of its mask."""
    return nn.Sequential(
        nn.Linear(channels, channels),
        nn.ReLU(inplace=True),
        nn.Linear(channels, channels),
        nn.ReLU(inplace=True),
        nn.Linear(channels, out_channels),
    )


def caffe2_xavier(conv: nn.Module) -> None:
    """Caffe2's XavierFill: uniform by the fan-in, and no bias."""
    weight, bias = getattr(conv, "weight"), getattr(conv, "bias")  # noqa: B009
    nn.init.kaiming_uniform_(weight, a=1)
    if bias is not None:
        nn.init.zeros_(bias)
