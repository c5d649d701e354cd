"""CascadeRoIHead: several stages, each on the boxes of the one before.

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
from cupola.registry.budget import reserve
from cupola.structures import Detections

Config = Mapping[str, Any]
Maps = Sequence[Tensor]
Targets = Sequence[Mapping[str, Tensor]]


@MODELS.register_module()
class CascadeRoIHead(nn.Module):
    """Heads of `num_stages` stages; the scores and masks of all stages are averaged.

    Source: mmdet/models/roi_heads/cascade_roi_head.py.
    """

    def __init__(
        self,
        num_stages: int,
        stage_loss_weights: Sequence[float],
        bbox_roi_extractor: Any,
        bbox_head: Any,
        mask_roi_extractor: Any = None,
        mask_head: Any = None,
        shared_head: Config | None = None,
        train_cfg: Sequence[Config] | None = None,
        test_cfg: Config | None = None,
        pretrained: str | None = None,
        init_cfg: Any = None,
    ) -> None:
        super().__init__()
        if shared_head is not None:
            raise ValueError("CascadeRoIHead takes no shared_head")
        self.init_cfg = init_cfg
        self.num_stages, self.weights = num_stages, tuple(stage_loss_weights)
        self.bbox_roi_extractor = _stages(bbox_roi_extractor, num_stages)
        self.bbox_head = _stages(bbox_head, num_stages)
        self.mask_head = _stages(mask_head, num_stages) if mask_head else None
        own = mask_head and mask_roi_extractor
        self.mask_roi_extractor = _stages(mask_roi_extractor, num_stages) if own else None
        self.test_cfg = dict(test_cfg or {})
        self.train_cfg = [dict(each) for each in train_cfg or ()]
        self.assigners = [TASK_UTILS.build(each["assigner"]) for each in self.train_cfg]
        self.samplers = [TASK_UTILS.build(each["sampler"]) for each in self.train_cfg]

    @property
    def predicts_masks(self) -> bool:
        """Whether there are mask heads."""
        return self.mask_head is not None

    def forward(self, maps: Maps, proposals: Sequence[Tensor], sizes: Sequence[Size]) -> Any:
        """Proposals [R_i, 4] -> logits [R_i, C + 1] (means of the stages), deltas and masks.

        Each is a list over images; deltas are those of the last stage, masks probabilities.
        """
        regions, logits, deltas = self.refined(maps, proposals, sizes)
        if self.mask_head is None:
            return logits, deltas
        masks = self.masks_of_stages(maps, rois_of(regions))
        return logits, deltas, list(torch.split(masks, [len(each) for each in regions]))

    def box_stage(self, stage: int, maps: Maps, rois: Tensor) -> tuple[Tensor, Tensor]:
        """rois [R, 5] -> logits [R, C + 1] and deltas of one stage."""
        logits, deltas = self.bbox_head[stage](self.bbox_roi_extractor[stage](maps, rois))
        return logits, deltas

    def mask_regions(self, stage: int, maps: Maps, rois: Tensor) -> Tensor:
        """rois [R, 5] -> the input of a stage's mask head."""
        extractors = self.mask_roi_extractor or self.bbox_roi_extractor
        found: Tensor = extractors[stage](maps, rois)
        return found

    def refined(
        self, maps: Maps, proposals: Sequence[Tensor], sizes: Sequence[Size]
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """The last stage's regions, the mean logits of all stages, its deltas; per image."""
        counts = [len(each) for each in proposals]
        regions, sums = list(proposals), None
        for stage in range(self.num_stages):
            logits, deltas = (
                each.float() for each in self.box_stage(stage, maps, rois_of(regions))
            )
            sums = logits if sums is None else sums + logits
            parts = torch.split(deltas, counts)
            if stage < self.num_stages - 1:
                head = self.bbox_head[stage]
                labels = torch.split(self.class_of(head, logits), counts)
                regions = [
                    head.refine(*each) for each in zip(regions, labels, parts, sizes, strict=True)
                ]
        assert sums is not None
        return regions, list(torch.split(sums / self.num_stages, counts)), list(parts)

    @staticmethod
    def class_of(head: Any, logits: Tensor) -> Tensor:
        """The most likely class of each region, not the background: [R, C + 1] -> [R]."""
        return (head.scores(logits) if hasattr(head.loss_cls, "scores") else logits)[:, :-1].argmax(
            1
        )

    def masks_of_stages(self, maps: Maps, rois: Tensor) -> Tensor:
        """The mean over the stages of the masks' probabilities, [R, C, m, n]."""
        assert self.mask_head is not None
        sums = sum(
            self.mask_head[stage](self.mask_regions(stage, maps, rois)).float().sigmoid()
            for stage in range(self.num_stages)
        )
        assert isinstance(sums, Tensor)
        return sums / self.num_stages

    def loss(
        self, maps: Maps, proposals: Sequence[Tensor], targets: Targets, sizes: Sequence[Size]
    ) -> dict[str, Tensor]:
        """The losses of every stage: s0.loss_cls, s0.acc, s0.loss_bbox, s0.loss_mask, ..."""
        losses = {}
        for stage, weight in enumerate(self.weights):
            samples = self.sample(stage, maps, proposals, targets)
            rois = rois_of([each.boxes for each in samples])
            logits, deltas = self.box_stage(stage, maps, rois)
            found = self.bbox_head[stage].loss(logits, deltas, samples, self.train_cfg[stage])
            found |= self.mask_loss(stage, maps, samples, targets)
            for name, value in found.items():
                losses[f"s{stage}.{name}"] = value * weight if "loss" in name else value
            if stage < self.num_stages - 1:
                with torch.no_grad():
                    proposals = self.next_proposals(stage, logits, deltas, samples, sizes)
        return losses

    def sample(
        self, stage: int, maps: Maps, proposals: Sequence[Tensor], targets: Targets
    ) -> list[RoISample]:
        """The proposals of every image that train a stage; ValueError without train_cfg."""
        if not self.train_cfg:
            raise ValueError("the model's train_cfg is missing: it names the assigner")
        return [
            sample_proposals(
                each,
                target,
                self.assigners[stage],
                self.samplers[stage],
                self.bbox_head[stage],
                partial(self.predicted_at, stage, maps, i),
            )
            for i, (each, target) in enumerate(zip(proposals, targets, strict=True))
        ]

    def predicted_at(
        self, stage: int, maps: Maps, image: int, boxes: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Logits and deltas of a stage for boxes [R, 4] of an image of the batch."""
        return self.box_stage(stage, maps, rois_of([boxes], image))

    def mask_loss(
        self, stage: int, maps: Maps, samples: Sequence[RoISample], targets: Targets
    ) -> dict[str, Tensor]:
        """loss_mask of a stage; nothing without mask heads."""
        if self.mask_head is None:
            return {}
        head = self.mask_head[stage]
        regions = self.mask_regions(stage, maps, rois_of([each.positive for each in samples]))
        losses: dict[str, Tensor] = head.loss(
            head(regions), samples, targets, self.train_cfg[stage]
        )
        return losses

    def next_proposals(
        self,
        stage: int,
        logits: Tensor,
        deltas: Tensor,
        samples: Sequence[RoISample],
        sizes: Sequence[Size],
    ) -> list[Tensor]:
        """The sampled regions, refined; positive ones by the deltas of their object's class.

        Objects' own boxes are left out: the next stage adds them again.
        """
        head = self.bbox_head[stage]
        counts = [len(each.boxes) for each in samples]
        labels = torch.split(self.class_of(head, logits), counts)
        refined = []
        for sample, label, delta, size in zip(
            samples, labels, torch.split(deltas, counts), sizes, strict=True
        ):
            label = torch.cat((sample.labels, label[len(sample.labels) :]))
            keep = torch.ones_like(label, dtype=torch.bool)
            keep[: len(sample.own)] = ~sample.own
            refined.append(head.refine(sample.boxes, label, delta, size)[keep])
        return refined

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
        head = self.bbox_head[-1]
        found = []
        regions, logits, deltas = self.refined(maps, proposals, sizes)
        for i, size in enumerate(sizes):
            candidates = head.detected(regions[i], logits[i], deltas[i], size, self.test_cfg)
            found.append(suppress(candidates, self.test_cfg, None if masked else factors[i]))
        if not masked:
            return found
        masks = self.predict_masks(maps, found)
        return with_masks(found, masks, factors, originals, self.test_cfg["mask_thr_binary"])

    def scored_boxes(self, maps: Maps, proposals: Tensor, size: Size) -> tuple[Tensor, Tensor]:
        """Proposals [P, 4] of one image -> scores [P, C] and boxes [P, C or 1, 4]."""
        regions, logits, deltas = self.refined(maps, [proposals], [size])
        head: Any = self.bbox_head[-1]
        scores, boxes = head.scored_boxes(regions[0], logits[0], deltas[0], size)
        return scores, boxes

    def predict_masks(self, maps: Maps, found: Sequence[Detections]) -> list[Tensor]:
        """The probabilities of the masks of detections in pixels of the input, [N, m, n] each."""
        assert self.mask_head is not None
        masks = self.masks_of_stages(maps, rois_of([each.boxes for each in found]))
        labels = torch.cat([each.labels for each in found])
        chosen: Tensor = self.mask_head[-1].of_classes(masks, labels)
        return list(torch.split(chosen, [len(each) for each in found]))


def _stages(cfg: Any, count: int) -> nn.ModuleList:
    """One module for each stage, of a list of configs or of the same config."""
    reserve(count)
    cfgs = list(cfg) if isinstance(cfg, (list, tuple)) else [cfg] * count
    if len(cfgs) != count:
        raise ValueError(f"{len(cfgs)} heads or extractors for {count} stages")
    return nn.ModuleList(MODELS.build(each) for each in cfgs)
