"""SparseRoIHead: stages of queries, each with the boxes and features of the one before.

Letters: B images, P queries of an image, C classes, D channels.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cupola.models.matching import MatchInputs
from cupola.models.rcnn import CascadeRoIHead
from cupola.models.rcnn.cascade import Config, Maps, Targets
from cupola.models.rcnn.masks import Factors, Size, with_masks
from cupola.models.rcnn.roi_extractor import rois_of
from cupola.models.rcnn.sampling import RoISample
from cupola.models.sparse_rcnn.box_head import assigned_targets
from cupola.models.sparse_rcnn.proposals import Queries
from cupola.registry import MODELS
from cupola.structures import Detections
from cupola.structures import boxes as box_ops


class Stage(NamedTuple):
    """logits [B, P, C], boxes [B, P, 4], features [B, P, D]; attended: those that masks use."""

    logits: Tensor
    boxes: Tensor
    features: Tensor
    attended: Tensor


@MODELS.register_module()
class SparseRoIHead(CascadeRoIHead):
    """Every query is assigned to an object or the background in each stage, by the costs.

    Source: mmdet/models/roi_heads/sparse_roi_head.py.
    """

    def __init__(
        self,
        num_stages: int = 6,
        stage_loss_weights: Sequence[float] = (1, 1, 1, 1, 1, 1),
        proposal_feature_channel: int = 256,
        train_cfg: Sequence[Config] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(num_stages, stage_loss_weights, train_cfg=train_cfg, **options)
        if any(each["sampler"]["type"] != "PseudoSampler" for each in train_cfg or ()):
            raise ValueError("SparseRoIHead trains all queries: the sampler is PseudoSampler")

    def stage(self, number: int, maps: Maps, queries: Queries, sizes: Sequence[Size]) -> Stage:
        """One stage; its boxes have a gradient, those of the queries do not."""
        head: Any = self.bbox_head[number]
        regions = self.bbox_roi_extractor[number](maps, rois_of(list(queries.boxes)))
        logits, deltas, features, attended = head(regions, queries.features)
        boxes = [
            head.bbox_coder.decode(box, delta.to(box), size)
            for box, delta, size in zip(queries.boxes, deltas, sizes, strict=True)
        ]
        return Stage(logits.float(), torch.stack(boxes), features, attended)

    def last_stage(self, maps: Maps, queries: Queries, sizes: Sequence[Size]) -> Stage:
        """All stages, one after the other."""
        for number in range(self.num_stages):
            found = self.stage(number, maps, queries, sizes)
            queries = Queries(found.boxes, found.features)
        return found

    def masks(self, number: int, maps: Maps, boxes: Sequence[Tensor], attended: Tensor) -> Tensor:
        """The mask logits [R, C, m, n] of boxes of every image and their features [R, D]."""
        assert self.mask_head is not None
        head: Any = self.mask_head[number]
        logits: Tensor = head.masks(self.mask_regions(number, maps, rois_of(boxes)), attended)
        return logits

    def forward(self, maps: Maps, proposals: Any, sizes: Sequence[Size]) -> Any:
        """Logits [B, P, C] and boxes [B, P, 4] of the last stage, and mask logits [B * P, ...]."""
        found = self.last_stage(maps, proposals, sizes)
        if self.mask_head is None:
            return found.logits, found.boxes
        masks = self.masks(-1, maps, list(found.boxes), found.attended.flatten(0, 1))
        return found.logits, found.boxes, masks

    def scored_boxes(self, maps: Maps, proposals: Any, size: Size) -> tuple[Tensor, Tensor]:
        """The queries of one image -> scores [P, C] and boxes [P, 1, 4]."""
        found, head = self.last_stage(maps, proposals, [size]), self.bbox_head[-1]
        scores: Tensor = head.scores(found.logits[0])
        return scores, found.boxes[0][:, None]

    def loss(
        self, maps: Maps, proposals: Any, targets: Targets, sizes: Sequence[Size]
    ) -> dict[str, Tensor]:
        """s0.loss_cls, s0.pos_acc, s0.loss_bbox, s0.loss_iou, s0.loss_mask, ... of every stage."""
        if not self.train_cfg:
            raise ValueError("the model's train_cfg is missing: it names the assigner")
        losses, queries = {}, proposals
        for number, weight in enumerate(self.weights):
            found = self.stage(number, maps, queries, sizes)
            for name, value in self.stage_loss(number, maps, found, targets, sizes).items():
                losses[f"s{number}.{name}"] = value * weight if "loss" in name else value
            queries = Queries(found.boxes.detach(), found.features)
        return losses

    def stage_loss(
        self, number: int, maps: Maps, found: Stage, targets: Targets, sizes: Sequence[Size]
    ) -> dict[str, Tensor]:
        """The losses of one stage, without its weight."""
        head: Any = self.bbox_head[number]
        boxes = [each["boxes"].to(found.boxes) for each in targets]
        owners = self.assigned(number, found, targets, sizes)
        wanted = [
            assigned_targets(owner, target["labels"], box, head.num_classes)
            for owner, target, box in zip(owners, targets, boxes, strict=True)
        ]
        pixels = found.boxes.new_tensor([[w, h, w, h] for h, w in sizes])[:, None]
        losses: dict[str, Tensor] = head.loss(
            found.logits.flatten(0, 1),
            found.boxes.flatten(0, 1),
            torch.cat([labels for labels, _ in wanted]),
            torch.cat([goal for _, goal in wanted]),
            pixels.expand_as(found.boxes).flatten(0, 1),
        )
        if self.mask_head is None:
            return losses
        samples = [
            sample_of(owner, box.detach(), target["labels"], goal)
            for owner, box, target, goal in zip(owners, found.boxes, targets, boxes, strict=True)
        ]
        attended = found.attended[torch.stack(owners) >= 0]  # [K, D]
        masks = self.masks(number, maps, [each.boxes for each in samples], attended)
        mask_head: Any = self.mask_head[number]
        losses |= mask_head.loss(masks, samples, targets, self.train_cfg[number])
        return losses

    @torch.no_grad()
    def assigned(
        self, number: int, found: Stage, targets: Targets, sizes: Sequence[Size]
    ) -> list[Tensor]:
        """The object of every query of each image, [P] each, -1 for the background."""
        matches = []
        for logits, boxes, target, size in zip(
            found.logits, found.boxes, targets, sizes, strict=True
        ):
            parts = (1 / size[0], 1 / size[1])
            ours, theirs = (
                box_ops.xyxy_to_cxcywh(box_ops.scale(each.to(boxes), parts))
                for each in (boxes, target["boxes"])
            )
            matches.append(MatchInputs(logits, ours, target["labels"], theirs, size))
        owners: list[Tensor] = self.assigners[number].assign(matches)
        return owners

    def predict(
        self,
        maps: Maps,
        proposals: Any,
        sizes: Sequence[Size],
        factors: Factors,
        originals: Sequence[Size],
    ) -> list[Detections]:
        """The best `max_per_img` pairs of query and class, in pixels of the original image."""
        head: Any = self.bbox_head[-1]
        stage = self.last_stage(maps, proposals, sizes)
        found, attended = [], []
        for logits, boxes, features in zip(stage.logits, stage.boxes, stage.attended, strict=True):
            scores = head.scores(logits).flatten()
            best = scores.topk(min(self.test_cfg["max_per_img"], len(scores)))
            query = best.indices // head.num_classes
            found.append(Detections(boxes[query], best.values, best.indices % head.num_classes))
            attended.append(features[query])
        if self.mask_head is None:
            return [_rescaled(each, factor) for each, factor in zip(found, factors, strict=True)]
        logits = self.masks(-1, maps, [each.boxes for each in found], torch.cat(attended))
        mask_head: Any = self.mask_head[-1]
        labels = torch.cat([each.labels for each in found])
        masks = mask_head.of_classes(logits.float(), labels).sigmoid()
        parts = list(torch.split(masks, [len(each) for each in found]))
        return with_masks(found, parts, factors, originals, self.test_cfg["mask_thr_binary"])


def sample_of(owners: Tensor, boxes: Tensor, labels: Tensor, objects: Tensor) -> RoISample:
    """The queries of an image that have an object, as a sample of positive regions."""
    positive = owners >= 0
    index = owners[positive]
    own = torch.zeros_like(index, dtype=torch.bool)
    return RoISample(boxes[positive], index, labels[index], objects[index], own)


def _rescaled(found: Detections, factor: Sequence[float] | None) -> Detections:
    """Detections in pixels of the original image."""
    if factor is None:
        return found
    boxes = found.boxes / found.boxes.new_tensor([*factor[:2], *factor[:2]])
    return Detections(boxes, found.scores, found.labels)
