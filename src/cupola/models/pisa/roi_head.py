"""PISARoIHead: a StandardRoIHead whose samples weigh as much as they matter."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from cupola.models.pisa.weights import Positives, check_box_loss, numbered
from cupola.models.rcnn.masks import Size
from cupola.models.rcnn.roi_extractor import rois_of
from cupola.models.rcnn.sampling import RoISample
from cupola.models.rcnn.standard import Maps, StandardRoIHead, Targets
from cupola.registry import MODELS


@MODELS.register_module()
class PISARoIHead(StandardRoIHead):
    """train_cfg["isr"] weighs positive samples, and train_cfg["carl"] adds loss_carl.

    Source: mmdet/models/roi_heads/pisa_roi_head.py.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        check_box_loss(self.bbox_head)

    def loss(
        self, maps: Maps, proposals: Sequence[Tensor], targets: Targets, sizes: Sequence[Size]
    ) -> dict[str, Tensor]:
        """As StandardRoIHead's, and loss_carl."""
        samples = self.sample(maps, proposals, targets)
        regions = self.regions(maps, rois_of([each.boxes for each in samples]))
        logits, deltas = self.bbox_head(regions)
        positives = self.positives(logits, deltas, samples)
        if (settings := self.train_cfg.get("isr")) is not None:
            weights = positives.importance(**settings)
            parts = torch.split(weights, [len(each.objects) for each in samples])
            samples = [
                replace(each, positive_weights=part)
                for each, part in zip(samples, parts, strict=True)
            ]
        losses: dict[str, Tensor] = self.bbox_head.loss(logits, deltas, samples, self.train_cfg)
        if (settings := self.train_cfg.get("carl")) is not None:
            losses["loss_carl"] = positives.regression_loss(
                self.bbox_head.loss_bbox, float(len(logits)), **settings
            )
        if self.mask_head is not None:
            losses |= self.mask_loss(maps, regions, samples, targets)
        return losses

    def positives(self, logits: Tensor, deltas: Tensor, samples: Sequence[RoISample]) -> Positives:
        """The positive samples, with what is predicted of them."""
        head = self.bbox_head
        labels, weights = head.class_targets(samples, self.train_cfg)
        positive = labels < head.num_classes
        labels, logits = labels[positive], logits[positive]
        found = head.deltas_of(deltas[positive], labels)
        regions = torch.cat([each.positive for each in samples])
        goal = head.bbox_coder.encode(regions, torch.cat([each.targets for each in samples]))
        return Positives(
            labels,
            numbered([each.objects for each in samples]),
            head.loss_cls.each(logits, labels),
            weights[positive],
            logits.softmax(-1).gather(1, labels[:, None])[:, 0],
            head.bbox_coder.decode(regions, found),
            head.bbox_coder.decode(regions, goal),
            found,
            goal,
        )
