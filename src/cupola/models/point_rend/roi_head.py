"""PointRend and its head of regions.

Letters: R regions, C classes, P points.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cupola.models.layers.point_sampling import point_sample, uncertain_points, values_at
from cupola.models.point_rend.points import in_image, points_of, values_of_regions
from cupola.models.rcnn.detector import TwoStageDetector
from cupola.models.rcnn.roi_extractor import rois_of
from cupola.models.rcnn.sampling import RoISample
from cupola.models.rcnn.standard import Maps, StandardRoIHead, Targets
from cupola.registry import MODELS
from cupola.structures import Detections

Config = Mapping[str, Any]


@MODELS.register_module()
class PointRend(TwoStageDetector):
    """Source: mmdet/models/detectors/point_rend.py."""


@MODELS.register_module()
class PointRendRoIHead(StandardRoIHead):
    """A StandardRoIHead that enlarges masks in steps and predicts uncertain points again.

    Source: mmdet/models/roi_heads/point_rend_roi_head.py.
    """

    def __init__(self, point_head: Config, **options: Any) -> None:
        super().__init__(**options)
        if self.mask_head is None or self.mask_roi_extractor is None:
            raise ValueError("PointRendRoIHead needs a mask_head and a mask_roi_extractor")
        self.strides = [1 / each.spatial_scale for each in self.mask_roi_extractor.roi_layers]
        self.point_head = MODELS.build(point_head)

    def at_points(self, maps: Maps, rois: Tensor, points: Tensor, coarse: Tensor) -> Tensor:
        """rois [R, 5], points [R, P, 2], coarse masks [R, C, m, n] -> logits [R, C, P]."""
        levels = zip(maps, self.strides, strict=False)
        fine = torch.cat([values_of_regions(x, rois, points, stride) for x, stride in levels], 1)
        logits: Tensor = self.point_head(fine, values_at(coarse, points))
        return logits

    def mask_loss(
        self, maps: Maps, regions: Tensor, samples: Sequence[RoISample], targets: Targets
    ) -> dict[str, Tensor]:
        """loss_mask of coarse masks, loss_point of mostly uncertain points."""
        assert self.mask_head is not None
        rois = rois_of([each.positive for each in samples])
        coarse = self.mask_head(self.mask_regions(maps, rois))
        losses: dict[str, Tensor] = self.mask_head.loss(coarse, samples, targets, self.train_cfg)
        labels = torch.cat([each.labels for each in samples])
        if not len(labels):
            nothing = sum(each.sum() * 0 for each in self.point_head.parameters())
            return {**losses, "loss_point": coarse.sum() * 0 + nothing}
        names = ("num_points", "oversample_ratio", "importance_sample_ratio")
        settings = [self.train_cfg[name] for name in names]
        points = uncertain_points(self.mask_head.of_classes(coarse, labels), *settings)
        logits = self.point_head.of_classes(self.at_points(maps, rois, points, coarse), labels)
        wanted = point_targets(samples, targets, points)
        return {**losses, "loss_point": self.point_head.loss_point(logits, wanted)}

    def predict_masks(self, maps: Maps, found: Sequence[Detections]) -> list[Tensor]:
        """The probabilities of the masks of detections in pixels of the input, [N, m, n] each."""
        assert self.mask_head is not None
        rois = rois_of([each.boxes for each in found])
        coarse = self.mask_head(self.mask_regions(maps, rois)).float()
        labels = torch.cat([each.labels for each in found])
        masks = self.refined(maps, rois, labels, coarse).sigmoid()
        return list(torch.split(masks, [len(each) for each in found]))

    def refined(self, maps: Maps, rois: Tensor, labels: Tensor, coarse: Tensor) -> Tensor:
        """Coarse logits [R, C, m, n] -> those of the regions' classes [R, m', n'], step by step."""
        assert self.mask_head is not None
        masks: Tensor = self.mask_head.of_classes(coarse, labels)
        factor, steps = self.test_cfg["scale_factor"], self.test_cfg["subdivision_steps"]
        most = self.test_cfg["subdivision_num_points"]
        if not len(masks):
            return masks
        for step in range(steps):
            masks = F.interpolate(masks[:, None], scale_factor=factor, mode="bilinear")[:, 0]
            height, width = masks.shape[1:]
            if most >= factor**2 * height * width and step < steps - 1:
                continue  # the next step predicts all points
            flat = masks.flatten(1)
            places = (-flat.abs()).topk(min(height * width, most), 1).indices  # [R, P]
            points = points_of(places, height, width, masks)
            logits = self.at_points(maps, rois, points, coarse).float()
            chosen = self.point_head.of_classes(logits, labels)
            masks = flat.scatter(1, places, chosen).view(-1, height, width)
        return masks


def point_targets(samples: Sequence[RoISample], targets: Targets, points: Tensor) -> Tensor:
    """The objects' masks at points [R, P, 2] of the positive regions: [R, P], 0..1."""
    found = []
    parts = torch.split(points, [len(each.objects) for each in samples])
    for sample, target, mine in zip(samples, targets, parts, strict=True):
        masks = target["masks"].to(points)[sample.objects]
        size = points.new_tensor([masks.shape[-1], masks.shape[-2]])
        places = in_image(sample.positive, mine) / size
        found.append(point_sample(masks, places))
    return torch.cat(found)
