"""MaskFormerFusionHead: classes and masks of queries -> instances and a panoptic segmentation.

Letters: Q queries, C classes, K chosen queries, H and W the original image.
Source: mmdet/models/seg_heads/panoptic_fusion_heads/maskformer_fusion_head.py.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cupola import nn
from cupola.registry import MODELS
from cupola.structures import Detections, PanopticSegmentation, Segment
from cupola.structures.masks import mask_boxes
from cupola.structures.panoptic import INSTANCE_OFFSET

Sizes = Sequence[tuple[int, int]]


@dataclass(frozen=True)
class FusionSettings:
    """`test_cfg` of a published config. Thresholds are in 0..1."""

    panoptic_on: bool = True
    instance_on: bool = False
    semantic_on: bool = False
    max_per_image: int = 100  # instances
    object_mask_thr: float = 0.8  # minimum score of a query in the panoptic segmentation
    iou_thr: float = 0.8  # part of a mask that other queries may not have taken
    filter_low_score: bool = False  # pixels below 0.5 belong to no segment


@MODELS.register_module()
class MaskFormerFusionHead(nn.Module):
    """Postprocessing without parameters; things are the first `num_things_classes` classes."""

    def __init__(
        self,
        num_things_classes: int = 80,
        num_stuff_classes: int = 53,
        test_cfg: Mapping[str, Any] | None = None,
        loss_panoptic: Any = None,
        init_cfg: Any = None,
    ) -> None:
        super().__init__()
        self.init_cfg = init_cfg
        self.num_things = num_things_classes
        self.num_classes = num_things_classes + num_stuff_classes
        known = {field.name for field in fields(FusionSettings)}
        self.settings = FusionSettings(
            **{key: value for key, value in (test_cfg or {}).items() if key in known}
        )
        if self.settings.semantic_on or not (
            self.settings.panoptic_on or self.settings.instance_on
        ):
            raise ValueError("test_cfg: set panoptic_on or instance_on; semantic_on is unsupported")

    def predict(
        self, logits: Tensor, masks: Tensor, padded: tuple[int, int], sizes: Sizes, originals: Sizes
    ) -> list[Detections]:
        """logits [B, Q, C + 1], masks [B, Q, h, w] -> what was found in every image.

        `padded` is the (height, width) of the batch, `sizes` of the images in it, and `originals`
        of the images before resizing.
        """
        images = zip(logits, masks, sizes, originals, strict=True)
        return [self.fuse(each, maps, padded, *shape) for each, maps, *shape in images]

    def fuse(
        self,
        logits: Tensor,
        masks: Tensor,
        padded: tuple[int, int],
        size: tuple[int, int],
        original: tuple[int, int],
    ) -> Detections:
        """One image. Without `instance_on` the detections are the panoptic segments."""
        panoptic, scores = None, logits.softmax(-1)
        if self.settings.panoptic_on:
            best, labels = scores.max(-1)
            kept = (labels != self.num_classes) & (best > self.settings.object_mask_thr)
            resized = resize_masks(masks[kept], padded, size, original)
            panoptic = self.panoptic(best[kept], labels[kept], resized)
        if self.settings.instance_on:
            found, labels, queries = self.best(scores[:, :-1])
            chosen, place = torch.unique(queries, return_inverse=True)
            resized = resize_masks(masks[chosen], padded, size, original)
            return instances(found, labels, resized, place, panoptic)
        assert panoptic is not None
        return segments_as_detections(panoptic)

    def best(self, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The best (query, thing) pairs of scores [Q, C]: scores, labels and queries.

        Stuff counts among the best, but is left out.
        """
        count = min(self.settings.max_per_image, scores.numel())
        best, index = scores.flatten().topk(count, sorted=False)
        labels = index % self.num_classes
        things = labels < self.num_things
        return best[things], labels[things], (index // self.num_classes)[things]

    def panoptic(self, scores: Tensor, labels: Tensor, masks: Tensor) -> PanopticSegmentation:
        """scores, labels [K], mask logits [K, H, W]: each pixel to the best query's segment."""
        ids = torch.full(masks.shape[-2:], self.num_classes, dtype=torch.int32, device=masks.device)
        found: dict[int, Segment] = {}
        if len(scores):
            masks = masks.sigmoid()
            owners = (scores[:, None, None] * masks).argmax(0)  # [H, W]
            for k, (score, label) in enumerate(zip(scores.tolist(), labels.tolist(), strict=True)):
                owned, whole = owners == k, masks[k] >= 0.5
                areas = int(owned.sum()), int(whole.sum())
                if not all(areas) or areas[0] / areas[1] < self.settings.iou_thr:
                    continue
                if self.settings.filter_low_score:
                    owned = owned & whole
                is_thing = label < self.num_things
                things = sum(segment.is_thing for segment in found.values())
                number = label + INSTANCE_OFFSET * (things + 1) if is_thing else label
                ids[owned] = number
                best = max(score, found[number].score) if number in found else score
                found[number] = Segment(number, label, is_thing, best, 0)
        counts = {segment.id: int((ids == segment.id).sum()) for segment in found.values()}
        kept = [each._replace(area=counts[each.id]) for each in found.values() if counts[each.id]]
        return PanopticSegmentation(ids, tuple(kept), self.num_classes)


def resize_masks(
    masks: Tensor, padded: tuple[int, int], size: tuple[int, int], original: tuple[int, int]
) -> Tensor:
    """Mask logits [K, h, w] -> [K, H, W]: to the batch's size, without padding, to the original."""
    height, width = size
    if not len(masks):
        return masks.new_zeros(0, *original)
    masks = F.interpolate(masks[None], size=padded, mode="bilinear")[..., :height, :width]
    if (height, width) != tuple(original):
        masks = F.interpolate(masks, size=tuple(original), mode="bilinear")
    return masks[0]


def instances(
    scores: Tensor,
    labels: Tensor,
    masks: Tensor,
    place: Tensor,
    panoptic: PanopticSegmentation | None,
) -> Detections:
    """scores, labels and place [N], mask logits [K, H, W], mask n is masks[place[n]] -> best first.

    A score is the class score times the mean probability within the mask.
    """
    binary = masks > 0
    area = binary.flatten(1).sum(1)
    quality = (masks.sigmoid() * binary).flatten(1).sum(1) / (area + 1e-6)
    scores = scores * quality[place]
    order = scores.argsort(descending=True, stable=True)
    chosen = place[order]
    boxes = mask_boxes(binary)[chosen]
    return Detections(boxes, scores[order], labels[order], masks=binary[chosen], panoptic=panoptic)


def segments_as_detections(panoptic: PanopticSegmentation) -> Detections:
    """The segments, things and stuff, as detections, best first."""
    segments = tuple(sorted(panoptic.segments, key=lambda each: -each.score))
    panoptic = PanopticSegmentation(panoptic.ids, segments, panoptic.void)
    masks = panoptic.masks()
    scores = mask_boxes(masks).new_tensor([each.score for each in segments])
    labels = torch.tensor([each.label for each in segments], dtype=torch.int64, device=masks.device)
    return Detections(mask_boxes(masks), scores, labels, masks=masks, panoptic=panoptic)
