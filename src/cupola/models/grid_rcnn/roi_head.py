"""Grid R-CNN and its head of regions.

Letters: R regions of a batch, C classes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from cupola.models.rcnn import StandardRoIHead, TwoStageDetector
from cupola.models.rcnn.masks import Factors, Size
from cupola.models.rcnn.roi_extractor import rois_of
from cupola.models.rcnn.sampling import RoISample
from cupola.models.rcnn.standard import Maps, Targets
from cupola.registry import MODELS
from cupola.structures import Detections

Config = Mapping[str, Any]
AMPLITUDE = 0.15  # of the sides of a region, by which it is moved and resized in training
MOST = 192  # regions that train the grid


@MODELS.register_module()
class GridRCNN(TwoStageDetector):
    """Source: mmdet/models/detectors/grid_rcnn.py."""


@MODELS.register_module()
class GridRoIHead(StandardRoIHead):
    """The box head gives classes; the boxes of detections come from their grids, after NMS.

    Source: mmdet/models/roi_heads/grid_roi_head.py.
    """

    def __init__(
        self, grid_head: Config, grid_roi_extractor: Config | None = None, **options: Any
    ) -> None:
        super().__init__(**options)
        self.grid_roi_extractor = self.bbox_roi_extractor
        if grid_roi_extractor is not None:
            self.grid_roi_extractor = MODELS.build(grid_roi_extractor)
        self.grid_head = MODELS.build(grid_head)

    def grid_regions(self, maps: Maps, boxes: Sequence[Tensor]) -> Tensor:
        """Boxes [R_i, 4] of every image -> the grid head's input [R, D, h, h]."""
        found: Tensor = self.grid_roi_extractor(maps, rois_of(boxes))
        return found if self.shared_head is None else self.shared_head(found)

    def forward(self, maps: Maps, proposals: Sequence[Tensor], sizes: Sequence[Size]) -> Any:
        """As StandardRoIHead's, and the grids' logits of the first 100 regions."""
        output = super().forward(maps, proposals, sizes)
        rois = rois_of(proposals)[:100]
        regions = self.grid_roi_extractor(maps, rois)
        return *output, self.grid_head(
            regions if self.shared_head is None else self.shared_head(regions)
        )

    def loss(
        self, maps: Maps, proposals: Sequence[Tensor], targets: Targets, sizes: Sequence[Size]
    ) -> dict[str, Tensor]:
        """loss_cls, acc, loss_grid, and loss_bbox where the box head predicts boxes."""
        samples = self.sample(maps, proposals, targets)
        regions = self.regions(maps, rois_of([each.boxes for each in samples]))
        losses: dict[str, Tensor] = self.bbox_head.loss(
            *self.bbox_head(regions), samples, self.train_cfg
        )
        losses["loss_grid"] = self.grid_loss(maps, samples, sizes)
        if self.mask_head is not None:
            losses |= self.mask_loss(maps, regions, samples, targets)
        return losses

    def grid_loss(self, maps: Maps, samples: Sequence[RoISample], sizes: Sequence[Size]) -> Tensor:
        """The loss of the grids of at most 192 positive regions, moved and resized at random."""
        boxes = [jittered(each.positive, size) for each, size in zip(samples, sizes, strict=True)]
        objects = torch.cat([each.targets for each in samples])
        count = self.train_cfg.get("max_num_grid", MOST)
        chosen = torch.randperm(len(objects))[:count].to(objects.device)
        features = self.grid_regions(maps, boxes)[chosen]
        radius = self.train_cfg["pos_radius"]
        loss: Tensor = self.grid_head.loss(
            features, torch.cat(boxes)[chosen], objects[chosen], radius
        )
        return loss

    def predict_boxes(
        self, maps: Maps, proposals: Sequence[Tensor], sizes: Sequence[Size], factors: Factors
    ) -> list[Detections]:
        """Detections without masks, in pixels of the original if `factors` are given."""
        found = super().predict_boxes(maps, proposals, sizes, [None] * len(sizes))
        answers = []
        logits = self.grid_head(self.grid_regions(maps, [each.boxes for each in found])).float()
        for each, grid, factor in zip(
            found, torch.split(logits, [len(each) for each in found]), factors, strict=True
        ):
            boxes = self.grid_head.points.boxes(grid, each.boxes)
            if factor is not None:
                boxes = boxes / boxes.new_tensor([*factor[:2], *factor[:2]])
            answers.append(Detections(boxes, each.scores, each.labels))
        return answers

    def scored_regions(self, maps: Maps, proposals: Tensor, size: Size) -> tuple[Tensor, Tensor]:
        """As `scored_boxes`, without grids: what the original averages over views of an image."""
        return super().scored_boxes(maps, proposals, size)

    def scored_boxes(self, maps: Maps, proposals: Tensor, size: Size) -> tuple[Tensor, Tensor]:
        """Proposals [P, 4] of one image -> scores [P, C] and the boxes of their grids [P, 1, 4]."""
        scores, boxes = super().scored_boxes(maps, proposals, size)
        if boxes.shape[1] > 1:
            raise ValueError("a grid head is exported with a box head without boxes (with_reg)")
        logits = self.grid_head(self.grid_regions(maps, [boxes[:, 0]]))
        return scores, self.grid_head.points.boxes(logits, boxes[:, 0])[:, None]


def jittered(boxes: Tensor, size: Size) -> Tensor:
    """Boxes [P, 4], moved and resized by up to 15 % of their sides, within the image."""
    shift = torch.empty_like(boxes).uniform_(-AMPLITUDE, AMPLITUDE)
    center, sides = (boxes[:, 2:] + boxes[:, :2]) / 2, (boxes[:, 2:] - boxes[:, :2]).abs()
    center, half = center + sides * shift[:, :2], sides * (1 + shift[:, 2:]) / 2
    limit = boxes.new_tensor([size[1], size[0]] * 2) - 1
    return torch.minimum(torch.cat((center - half, center + half), 1).clamp(min=0), limit)
