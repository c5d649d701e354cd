"""MaskScoringRCNN and its head of regions."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from cupola.models.rcnn import StandardRoIHead, TwoStageDetector
from cupola.models.rcnn.mask_head import mask_targets
from cupola.models.rcnn.masks import Factors, with_masks
from cupola.models.rcnn.roi_extractor import rois_of
from cupola.models.rcnn.sampling import RoISample
from cupola.models.rcnn.standard import MASKS_SHOWN
from cupola.registry import MODELS
from cupola.structures import Detections

Config = Mapping[str, Any]
Size = tuple[int, int]


@MODELS.register_module()
class MaskScoringRCNN(TwoStageDetector):
    """Source: mmdet/models/detectors/mask_scoring_rcnn.py."""


@MODELS.register_module()
class MaskScoringRoIHead(StandardRoIHead):
    """A StandardRoIHead whose `mask_iou_head` scores the masks.

    It multiplies the scores of boxes, too, or with `separate_scores`, as in 2.x, does not. Source:
    mmdet/models/roi_heads/mask_scoring_roi_head.py.
    """

    def __init__(
        self, mask_iou_head: Config, separate_scores: bool = False, **options: Any
    ) -> None:
        super().__init__(**options)
        self.separate_scores = separate_scores
        self.mask_iou_head = MODELS.build(mask_iou_head)

    def forward(self, maps: Any, proposals: Sequence[Tensor], sizes: Sequence[Size]) -> Any:
        """See StandardRoIHead; the IoU [100, C] of the masks is the last."""
        logits, deltas, masks = super().forward(maps, proposals, sizes)
        regions = self.mask_regions(maps, rois_of(proposals)[:MASKS_SHOWN])
        labels = logits[: len(masks), : self.bbox_head.num_classes].argmax(1)
        return logits, deltas, masks, self.mask_iou_head(regions, self._chosen(masks, labels))

    def _chosen(self, masks: Tensor, labels: Tensor) -> Tensor:
        assert self.mask_head is not None
        found: Tensor = self.mask_head.of_classes(masks, labels)
        return found

    def mask_loss(
        self, maps: Any, regions: Tensor, samples: Sequence[RoISample], targets: Any
    ) -> dict[str, Tensor]:
        """loss_mask and loss_mask_iou."""
        assert self.mask_head is not None
        positive = self.mask_regions(maps, rois_of([each.positive for each in samples]))
        logits = self.mask_head(positive)
        losses: dict[str, Tensor] = self.mask_head.loss(logits, samples, targets, self.train_cfg)
        if not len(logits):
            return losses | {"loss_mask_iou": logits.sum()}
        labels = torch.cat([each.labels for each in samples])
        masks = self._chosen(logits, labels)
        overlaps = self.mask_iou_head(positive, masks)
        index = torch.arange(len(labels), device=labels.device)
        losses["loss_mask_iou"] = self.mask_iou_head.loss(
            overlaps[index, labels],
            masks,
            mask_targets(samples, targets, self.train_cfg["mask_size"]),
            samples,
            targets,
            self.train_cfg.get("mask_thr_binary", 0.5),
        )
        return losses

    def predict(
        self,
        maps: Any,
        proposals: Sequence[Tensor],
        sizes: Sequence[Size],
        factors: Factors,
        originals: Sequence[Size],
    ) -> list[Detections]:
        """Detections of every image, scored by class and mask, best first.

        With `separate_scores` boxes are scored by class, and `mask_scores` by class and mask.
        """
        assert self.mask_head is not None
        found = self.predict_boxes(maps, proposals, sizes, [None] * len(sizes))
        regions = self.mask_regions(maps, rois_of([each.boxes for each in found]))
        labels = torch.cat([each.labels for each in found])
        masks = self._chosen(self.mask_head(regions).float(), labels)
        index = torch.arange(len(labels), device=labels.device)
        counts = [len(each) for each in found]
        overlaps = torch.split(self.mask_iou_head(regions, masks)[index, labels], counts)
        scored = []
        ordered = []
        for each, overlap, mask in zip(
            found, overlaps, torch.split(masks.sigmoid(), counts), strict=True
        ):
            scores = each.scores * overlap
            if self.separate_scores:
                scored.append(replace(each, mask_scores=scores))
                ordered.append(mask)
                continue
            order = scores.argsort(descending=True)
            scored.append(Detections(each.boxes[order], scores[order], each.labels[order]))
            ordered.append(mask[order])
        threshold = self.test_cfg["mask_thr_binary"]
        return with_masks(scored, ordered, factors, originals, threshold)
