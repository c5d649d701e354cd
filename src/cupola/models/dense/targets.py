"""What the anchors of a batch should predict.

Letters: B images, S anchors of all levels, P positive anchors, M negative ones, both over the
batch.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cupola.models.boxes import AnchorGenerator, Assignment, Sample

Size = tuple[int, int]
Targets = Sequence[Mapping[str, Tensor]]


@dataclass(frozen=True)
class ImageSizes:
    """(height, width) of every image of a batch: its content, and padded to the divisor.

    Anchors between the padded image and the sides of the batch do not train.
    """

    content: Sequence[Size]
    padded: Sequence[Size]

    @staticmethod
    def of(batch: Mapping[str, Any]) -> "ImageSizes":
        """The "image_sizes" and "padded_sizes" of a batch, both by default that of its pixels."""
        pixels = batch["pixels"]
        whole = [(int(pixels.shape[-2]), int(pixels.shape[-1]))] * len(pixels)
        return ImageSizes(batch.get("image_sizes") or whole, batch.get("padded_sizes") or whole)


@dataclass(frozen=True)
class AnchorTargets:
    """positive and negative, bool [B, S]; labels [P]; boxes [P, 4]; anchors [P, 4].

    average: what losses are divided by, the number of sampled anchors.
    """

    positive: Tensor
    negative: Tensor
    labels: Tensor
    boxes: Tensor
    anchors: Tensor
    average: float


def anchor_targets(
    anchors: Sequence[Tensor],
    usable: Sequence[Tensor],
    targets: Targets,
    assign: Callable[[Tensor, Tensor], Assignment],
    sampler: Any,
) -> AnchorTargets:
    """Anchors [S, 4] and which of them are usable [S] of every image -> AnchorTargets."""
    positive, negative, labels, boxes, chosen = [], [], [], [], []
    average = 0
    for each, use, target in zip(anchors, usable, targets, strict=True):
        objects = target["boxes"].to(each)
        index = use.nonzero()[:, 0]
        sample: Sample = sampler(assign(each[index], objects))
        positive.append(_mark(use, index[sample.positive]))
        negative.append(_mark(use, index[sample.negative]))
        labels.append(target["labels"][sample.objects])
        boxes.append(objects[sample.objects])
        chosen.append(each[index[sample.positive]])
        average += max(len(sample.positive), 1)
        average += max(len(sample.negative), 1) if sampler.counts_negative else 0
    return AnchorTargets(
        torch.stack(positive),
        torch.stack(negative),
        torch.cat(labels),
        torch.cat(boxes),
        torch.cat(chosen),
        float(average),
    )


def usable_anchors(
    generator: AnchorGenerator,
    maps: Sequence[Tensor],
    anchors: Tensor,
    sizes: ImageSizes,
    border: float,
) -> list[Tensor]:
    """Which anchors [S] of every image may train, [S] bool each.

    Those of cells within the padded image; with `border` >= 0 they may leave its content by less
    than that many pixels. Source: anchor_inside_flags in mmdet.
    """
    found = []
    for (height, width), padded in zip(sizes.content, sizes.padded, strict=True):
        use = torch.cat(generator.valid(maps, padded))
        if border >= 0:
            low = (anchors[:, :2] >= -border).all(1)
            high = anchors[:, 2:] < anchors.new_tensor([width, height]) + border
            use = use & low & high.all(1)
        found.append(use)
    return found


def _mark(like: Tensor, index: Tensor) -> Tensor:
    marked = torch.zeros_like(like)
    marked[index] = True
    return marked
