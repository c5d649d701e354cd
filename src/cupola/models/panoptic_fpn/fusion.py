"""HeuristicFusionHead: instances over the stuff of every pixel.

Letters: N instances, C classes of stuff and one for things, (H, W) the original image.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from cupola import nn
from cupola.models.maskformer.fusion import segments_as_detections
from cupola.registry import MODELS
from cupola.structures import Detections, PanopticSegmentation, Segment
from cupola.structures.panoptic import INSTANCE_OFFSET


@MODELS.register_module()
class HeuristicFusionHead(nn.Module):
    """Instances in the order of their scores, then stuff, as in section 2.1 of Panoptic FPN.

    test_cfg: an instance is left out if more than `mask_overlap` of it is taken, and a class of
    stuff if it has fewer than `stuff_area_limit` pixels.
    Source: mmdet/models/seg_heads/panoptic_fusion_heads/heuristic_fusion_head.py.
    """

    def __init__(
        self,
        num_things_classes: int = 80,
        num_stuff_classes: int = 53,
        test_cfg: Mapping[str, Any] | None = None,
        init_cfg: Any = None,
    ) -> None:
        super().__init__()
        self.init_cfg = init_cfg
        self.num_things = num_things_classes
        self.num_classes = num_things_classes + num_stuff_classes
        settings = test_cfg or {}
        self.most_taken = float(settings.get("mask_overlap", 0.5))
        self.least_stuff = int(settings.get("stuff_area_limit", 4096))

    def fuse(self, found: Detections, logits: Tensor) -> Detections:
        """Instances with masks [N, H, W], stuff logits [C, H, W] -> the segments as detections.

        The score of stuff is its mean probability.
        """
        scores, best = logits.softmax(0).max(0)  # [H, W]
        ids = (best + self.num_things).to(torch.int32)  # the class of all things is num_classes
        segments = []
        for label in torch.unique(ids).tolist():
            if label < self.num_classes:
                score = float(scores[ids == label].mean())
                segments.append(Segment(label, label, False, score, 0))
        things = self.things(found)
        for number, (index, part) in enumerate(things, 1):
            label = int(found.labels[index])
            name = label + INSTANCE_OFFSET * number
            ids[part] = name
            segments.append(Segment(name, label, True, float(found.scores[index]), 0))
        kept = []
        for each in segments:
            area = int((ids == each.id).sum())
            if not each.is_thing and area < self.least_stuff:
                ids[ids == each.id] = self.num_classes
            elif area:
                kept.append(each._replace(area=area))
        return segments_as_detections(PanopticSegmentation(ids, tuple(kept), self.num_classes))

    def things(self, found: Detections) -> list[tuple[int, Tensor]]:
        """The instances that are kept, best first: (index, its pixels [H, W])."""
        assert found.masks is not None
        taken = found.masks.new_zeros(found.masks.shape[-2:])
        kept: list[tuple[int, Tensor]] = []
        for index in found.scores.argsort(descending=True, stable=True).tolist():
            mask = found.masks[index]
            area, lost = int(mask.sum()), int((mask & taken).sum())
            if not area or lost / area > self.most_taken:
                continue
            if lost < area:
                kept.append((index, mask & ~taken))
            taken |= mask
        return kept
