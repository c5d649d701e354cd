"""What the anchors of a batch should predict.

Letters: B images, S anchors of all levels, P positive anchors, M negative ones, both over the
batch.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cupola.models.boxes import IGNORED, NEGATIVE, AnchorGenerator, Assignment, Sample

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
    """positive and negative, bool [B, S]; labels [P]; boxes [P, 4]; anchors [P, 4]; objects [P].

    objects are indices of the objects of an image.

    average: what losses are divided by, the number of sampled anchors. level [S]: that of every
    anchor, where it is known. weights [P]: those of the positive ones in the class loss.
    """

    positive: Tensor
    negative: Tensor
    labels: Tensor
    boxes: Tensor
    anchors: Tensor
    objects: Tensor
    average: float
    level: Tensor | None = None
    weights: Tensor | None = None

    def levels_of(self, chosen: Tensor) -> Tensor | None:
        """The levels of chosen anchors, bool [B, S] -> [N]."""
        return None if self.level is None else self.level.expand_as(chosen)[chosen]


def anchor_targets(
    anchors: Tensor,
    usable: Sequence[Tensor],
    counts: Sequence[int],
    targets: Targets,
    assigner: Any,
    sampler: Any,
) -> AnchorTargets:
    """Anchors [S, 4] and which of them are usable [S] in every image -> AnchorTargets.

    counts: the anchors of each level; assigners that are `by_level` get those of usable ones.
    """
    positive, negative, labels, boxes, chosen, owners = [], [], [], [], [], []
    average = 0
    for use, target in zip(usable, targets, strict=True):
        objects = target["boxes"].to(anchors)
        index = use.nonzero()[:, 0]
        extra: tuple[list[int], ...] = ()
        if getattr(assigner, "by_level", False):
            extra = ([int(level.sum()) for level in torch.split(use, list(counts))],)
        sample: Sample = sampler(assigner(anchors[index], objects, *extra))
        positive.append(_mark(use, index[sample.positive]))
        negative.append(_mark(use, index[sample.negative]))
        labels.append(target["labels"][sample.objects])
        boxes.append(objects[sample.objects])
        chosen.append(anchors[index[sample.positive]])
        owners.append(sample.objects)
        average += max(len(sample.positive), 1)
        average += max(len(sample.negative), 1) if sampler.counts_negative else 0
    return AnchorTargets(
        torch.stack(positive),
        torch.stack(negative),
        torch.cat(labels),
        torch.cat(boxes),
        torch.cat(chosen),
        torch.cat(owners),
        float(average),
        torch.arange(len(counts)).repeat_interleave(torch.tensor(counts)).to(anchors.device),
    )


class PaddedTargets(NamedTuple):
    """Objects of all images: boxes [B, N, 4], labels [B, N], and which are `present` [B, N], bool.

    centers [B, N, 2] are those of the objects' masks, where the targets have masks.
    """

    boxes: Tensor
    labels: Tensor
    present: Tensor
    centers: Tensor | None = None

    @staticmethod
    def of(targets: Targets, like: Tensor, with_masks: bool = False) -> "PaddedTargets":
        """The targets of a batch, at least one (absent) object each, as `like` is."""
        counts = [len(each["labels"]) for each in targets]
        most = max(1, *counts)
        boxes = like.new_zeros(len(targets), most, 4)
        labels = torch.zeros(len(targets), most, dtype=torch.int64, device=like.device)
        middle = like.new_zeros(len(targets), most, 2) if with_masks else None
        for i, (count, target) in enumerate(zip(counts, targets, strict=True)):
            boxes[i, :count], labels[i, :count] = target["boxes"], target["labels"]
            if middle is not None:
                middle[i, :count] = mask_centers(target["masks"]).to(like)
        each = torch.tensor(counts, device=like.device)[:, None]
        return PaddedTargets(boxes, labels, torch.arange(most, device=like.device) < each, middle)


def mask_centers(masks: Tensor) -> Tensor:
    """The centers of mass of masks [N, H, W] -> (x, y) [N, 2]."""
    weight = masks.float()
    total = weight.sum((1, 2)).clamp(min=1e-7)
    y = (weight.sum(2) * torch.arange(masks.shape[1], device=masks.device)).sum(1) / total
    x = (weight.sum(1) * torch.arange(masks.shape[2], device=masks.device)).sum(1) / total
    return torch.stack((x, y), 1)


def assigned_targets(anchors: Tensor, owners: Tensor, objects: PaddedTargets) -> AnchorTargets:
    """The targets of anchors [S, 4] that are for the objects `owners` [B, S]."""
    positive = owners >= 0
    image, place = positive.nonzero(as_tuple=True)
    index = owners[image, place]
    return AnchorTargets(
        positive,
        owners == NEGATIVE,
        objects.labels[image, index],
        objects.boxes[image, index],
        anchors[place],
        index,
        float(max(len(index), 1)),
    )


# (anchors [A, 4], predictions [A, C] and [A, 4], target) -> Assignment, metric [A]
AssignByPrediction = Callable[
    [Tensor, Tensor, Tensor, Mapping[str, Tensor]], tuple[Assignment, Tensor]
]


def predicted_targets(
    anchors: Tensor,
    usable: Sequence[Tensor],
    scores: Tensor,
    boxes: Tensor,
    targets: Targets,
    assign: AssignByPrediction,
) -> tuple[AnchorTargets, Tensor]:
    """Targets chosen by the predictions [B, S, C] and [B, S, 4], and the metric [B, S]."""
    owners = torch.full(scores.shape[:2], IGNORED, device=scores.device)
    metrics = torch.zeros(scores.shape[:2], dtype=boxes.dtype, device=boxes.device)
    for i, (use, target) in enumerate(zip(usable, targets, strict=True)):
        found, metric = assign(anchors[use], scores[i][use], boxes[i][use], target)
        owners[i, use], metrics[i, use] = found.objects, metric
    positive = owners >= 0
    pairs = [(each, owner[owner >= 0]) for each, owner in zip(targets, owners, strict=True)]
    wanted = AnchorTargets(
        positive,
        owners == NEGATIVE,
        torch.cat([each["labels"][index] for each, index in pairs]),
        torch.cat([each["boxes"].to(anchors)[index] for each, index in pairs]),
        anchors.expand(len(owners), -1, -1)[positive],
        torch.cat([index for _, index in pairs]),
        float(sum(max(len(index), 1) for _, index in pairs)),
    )
    return wanted, metrics


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
    found: list[Tensor] = []
    known: dict[tuple[Size, Size], Tensor] = {}
    for (height, width), padded in zip(sizes.content, sizes.padded, strict=True):
        key = ((height, width), (padded[0], padded[1]))
        if key in known:
            found.append(known[key])
            continue
        use = torch.cat(generator.valid(maps, padded))
        if border >= 0:
            low = (anchors[:, :2] >= -border).all(1)
            high = anchors[:, 2:] < anchors.new_tensor([width, height]) + border
            use = use & low & high.all(1)
        known[key] = use
        found.append(use)
    return found


def _mark(like: Tensor, index: Tensor) -> Tensor:
    marked = torch.zeros_like(like)
    marked[index] = True
    return marked
