"""StandardRoIHead: one head for boxes, and one for masks where the config has it.

Letters: R regions of a batch, C classes.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from cupola import nn
from cupola.models.dense import suppress
from cupola.models.rcnn.masks import Factors, Size, with_masks
from cupola.models.rcnn.roi_extractor import rois_of
from cupola.models.rcnn.sampling import RoISample, sample_proposals
from cupola.registry import MODELS, TASK_UTILS
from cupola.structures import Detections

Config = Mapping[str, Any]
Maps = Sequence[Tensor]
Targets = Sequence[Mapping[str, Tensor]]
MASKS_SHOWN = 100  # regions whose masks a plain forward computes, as in the original


@MODELS.register_module()
class StandardRoIHead(nn.Module):
    """Proposals -> classes, boxes and masks.

    Without `mask_roi_extractor` the mask head gets the regions of the box head, after
    `shared_head` (C4). Source: mmdet/models/roi_heads/standard_roi_head.py.
    """

    def __init__(
        self,
        bbox_roi_extractor: Config,
        bbox_head: Config,
        mask_roi_extractor: Config | None = None,
        mask_head: Config | None = None,
        shared_head: Config | None = None,
        train_cfg: Config | None = None,
        test_cfg: Config | None = None,
        pretrained: str | None = None,
        init_cfg: Any = None,
    ) -> None:
        super().__init__()
        self.init_cfg = init_cfg
        self.train_cfg, self.test_cfg = dict(train_cfg or {}), dict(test_cfg or {})
        if shared_head and pretrained:
            shared_head = {**shared_head, "pretrained": pretrained}
        self.shared_head = MODELS.build(shared_head) if shared_head else None
        self.bbox_roi_extractor = MODELS.build(bbox_roi_extractor)
        self.bbox_head = MODELS.build(bbox_head)
        self.mask_roi_extractor = None
        if mask_head and mask_roi_extractor:
            self.mask_roi_extractor = MODELS.build(mask_roi_extractor)
        self.mask_head = MODELS.build(mask_head) if mask_head else None
        self.assigner = self.sampler = None
        if train_cfg:
            self.assigner = TASK_UTILS.build(train_cfg["assigner"])
            self.sampler = TASK_UTILS.build(train_cfg["sampler"])

    @property
    def predicts_masks(self) -> bool:
        """Whether there is a mask head."""
        return self.mask_head is not None

    def forward(self, maps: Maps, proposals: Sequence[Tensor], sizes: Sequence[Size]) -> Any:
        """Proposals [R_i, 4] -> logits [R, C + 1], deltas, and masks of the first 100 regions."""
        rois = rois_of(proposals)
        output = self.bbox_head(self.regions(maps, rois))
        if self.mask_head is None:
            return output
        return *output, self.mask_head(self.mask_regions(maps, rois[:MASKS_SHOWN]))

    def regions(self, maps: Maps, rois: Tensor) -> Tensor:
        """rois [R, 5] -> the box head's input [R, C, h, w]."""
        found: Tensor = self.bbox_roi_extractor(maps, rois)
        return found if self.shared_head is None else self.shared_head(found)

    def mask_regions(self, maps: Maps, rois: Tensor) -> Tensor:
        """rois [R, 5] -> the mask head's input [R, C, h, w]."""
        if self.mask_roi_extractor is None:
            return self.regions(maps, rois)
        found: Tensor = self.mask_roi_extractor(maps, rois)
        return found if self.shared_head is None else self.shared_head(found)

    def loss(
        self, maps: Maps, proposals: Sequence[Tensor], targets: Targets, sizes: Sequence[Size]
    ) -> dict[str, Tensor]:
        """loss_cls, acc, loss_bbox, and loss_mask where there is a mask head."""
        samples = self.sample(maps, proposals, targets)
        regions = self.regions(maps, rois_of([each.boxes for each in samples]))
        losses: dict[str, Tensor] = self.bbox_head.loss(
            *self.bbox_head(regions), samples, self.train_cfg
        )
        if self.mask_head is not None:
            losses |= self.mask_loss(maps, regions, samples, targets)
        return losses

    def sample(self, maps: Maps, proposals: Sequence[Tensor], targets: Targets) -> list[RoISample]:
        """The proposals of every image that train; ValueError for a model without train_cfg."""
        if self.assigner is None:
            raise ValueError("the model's train_cfg is missing: it names the assigner")
        return [
            sample_proposals(
                each,
                target,
                self.assigner,
                self.sampler,
                self.bbox_head,
                partial(self.predicted_at, maps, i),
            )
            for i, (each, target) in enumerate(zip(proposals, targets, strict=True))
        ]

    def predicted_at(
        self, maps: Maps, image: int, boxes: Tensor
    ) -> tuple[Tensor | None, Tensor | None]:
        """Logits and deltas of boxes [R, 4] of an image of the batch."""
        logits, deltas = self.bbox_head(self.regions(maps, rois_of([boxes], image)))
        return logits, deltas

    def mask_loss(
        self, maps: Maps, regions: Tensor, samples: Sequence[RoISample], targets: Targets
    ) -> dict[str, Tensor]:
        """loss_mask; `regions` are the box head's, image by image."""
        assert self.mask_head is not None
        if self.mask_roi_extractor is not None:
            positive = self.mask_regions(maps, rois_of([each.positive for each in samples]))
        else:
            marks = [
                torch.arange(len(each.boxes), device=regions.device) < len(each.objects)
                for each in samples
            ]
            positive = regions[torch.cat(marks)]
        losses: dict[str, Tensor] = self.mask_head.loss(
            self.mask_head(positive), samples, targets, self.train_cfg
        )
        return losses

    def predict(
        self,
        maps: Maps,
        proposals: Sequence[Tensor],
        sizes: Sequence[Size],
        factors: Factors,
        originals: Sequence[Size],
    ) -> list[Detections]:
        """Detections of every image, in pixels of the original if `factors` are given."""
        masked = self.mask_head is not None
        found = self.predict_boxes(
            maps, proposals, sizes, [None] * len(sizes) if masked else factors
        )
        if not masked:
            return found
        masks = self.predict_masks(maps, found)
        return with_masks(found, masks, factors, originals, self.test_cfg["mask_thr_binary"])

    def predict_boxes(
        self, maps: Maps, proposals: Sequence[Tensor], sizes: Sequence[Size], factors: Factors
    ) -> list[Detections]:
        """Detections without masks."""
        counts = [len(each) for each in proposals]
        logits, deltas = self.bbox_head(self.regions(maps, rois_of(proposals)))
        found = []
        for logit, delta, regions, size, factor in zip(
            torch.split(logits.float(), counts),
            [None] * len(counts) if deltas is None else torch.split(deltas.float(), counts),
            proposals,
            sizes,
            factors,
            strict=True,
        ):
            candidates = self.bbox_head.detected(regions, logit, delta, size, self.test_cfg)
            found.append(suppress(candidates, self.test_cfg, factor))
        return found

    def scored_boxes(self, maps: Maps, proposals: Tensor, size: Size) -> tuple[Tensor, Tensor]:
        """Proposals [P, 4] of one image -> scores [P, C] and boxes [P, C or 1, 4]."""
        logits, deltas = self.bbox_head(self.regions(maps, rois_of([proposals])))
        scores, boxes = self.bbox_head.scored_boxes(proposals, logits, deltas, size)
        return scores, boxes

    def predict_masks(self, maps: Maps, found: Sequence[Detections]) -> list[Tensor]:
        """The probabilities of the masks of detections in pixels of the input, [N, m, n] each."""
        assert self.mask_head is not None
        logits = self.mask_head(self.mask_regions(maps, rois_of([each.boxes for each in found])))
        labels = torch.cat([each.labels for each in found])
        masks: Tensor = self.mask_head.of_classes(logits.float(), labels).sigmoid()
        return list(torch.split(masks, [len(each) for each in found]))
