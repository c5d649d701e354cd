"""SCNet and its head of regions.

Letters: R regions of a batch, C classes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from cupola.models.htc.roi_head import Features, HybridTaskCascadeRoIHead, semantic_labels
from cupola.models.rcnn import ConvFCBBoxHead, TwoStageDetector
from cupola.models.rcnn.masks import Size
from cupola.models.rcnn.roi_extractor import rois_of
from cupola.models.rcnn.sampling import RoISample
from cupola.registry import MODELS
from cupola.structures import Detections

Config = Mapping[str, Any]
Targets = Sequence[Mapping[str, Tensor]]


@MODELS.register_module()
class SCNet(TwoStageDetector):
    """Source: mmdet/models/detectors/scnet.py."""


@MODELS.register_module()
class SCNetBBoxHead(ConvFCBBoxHead):
    """A ConvFCBBoxHead; what its predictions share goes to the mask head, too."""


@MODELS.register_module()
class SCNetRoIHead(HybridTaskCascadeRoIHead):
    """Boxes as in Hybrid Task Cascade, and masks once, after the last stage.

    Features of the whole image are added to those of all regions; the mask head gets those of the
    last box head, as well. Source: mmdet/models/roi_heads/scnet_roi_head.py.
    """

    def __init__(
        self,
        num_stages: int,
        stage_loss_weights: Sequence[float],
        mask_roi_extractor: Config,
        mask_head: Config,
        semantic_roi_extractor: Config | None = None,
        semantic_head: Config | None = None,
        feat_relay_head: Config | None = None,
        glbctx_head: Config | None = None,
        **options: Any,
    ) -> None:
        super().__init__(num_stages, stage_loss_weights, **options)
        self.mask_roi_extractor = MODELS.build(mask_roi_extractor)
        self.mask_head = MODELS.build(mask_head)
        self.add_semantic(semantic_roi_extractor, semantic_head)
        self.feat_relay_head = MODELS.build(feat_relay_head) if feat_relay_head else None
        self.glbctx_head = MODELS.build(glbctx_head) if glbctx_head else None

    def with_semantic(self, maps: Sequence[Tensor]) -> Features:
        """The maps with the features of the semantic branch and of the whole image."""
        if isinstance(maps, Features):
            return maps
        found = super().with_semantic(maps)
        if self.glbctx_head is not None:
            found.context = self.glbctx_head(maps)[1]
        return found

    def _fused(self, kind: str, regions: Tensor, maps: Features, rois: Tensor) -> Tensor:
        regions = super()._fused(kind, regions, maps, rois)
        return regions if maps.context is None else regions + maps.context[rois[:, 0].long()]

    def shared(self, stage: int, maps: Any, rois: Tensor) -> Tensor:
        """rois [R, 5] -> what a stage's box head makes its predictions of."""
        head: Any = self.bbox_head[stage]
        regions = self.bbox_roi_extractor[stage](maps, rois)
        shared: Tensor = head.shared(self._fused("bbox", regions, maps, rois))
        return shared

    def masks(self, maps: Any, rois: Tensor, shared: Tensor) -> Tensor:
        """rois [R, 5], what the last box head shares -> mask logits [R, C, m, n]."""
        extractor: Any = self.mask_roi_extractor
        head: Any = self.mask_head
        regions = self._fused("mask", extractor(maps, rois), maps, rois)
        if self.feat_relay_head is not None:
            regions = regions + self.feat_relay_head(shared)
        logits: Tensor = head(regions)
        return logits

    def masks_of_stages(self, maps: Any, rois: Tensor) -> Tensor:
        """The probabilities of the masks, [R, C, m, n]."""
        return self.masks(maps, rois, self.shared(-1, maps, rois)).float().sigmoid()

    def predict_masks(self, maps: Any, found: Sequence[Detections]) -> list[Tensor]:
        """The probabilities of the masks of detections in pixels of the input, [N, m, n] each."""
        head: Any = self.mask_head
        masks = self.masks_of_stages(maps, rois_of([each.boxes for each in found]))
        chosen = head.of_classes(masks, torch.cat([each.labels for each in found]))
        return list(torch.split(chosen, [len(each) for each in found]))

    def loss(
        self,
        maps: Sequence[Tensor],
        proposals: Sequence[Tensor],
        targets: Targets,
        sizes: Sequence[Size],
    ) -> dict[str, Tensor]:
        """s0.loss_cls, ..., loss_mask, and loss_semantic_seg and loss_glbctx of these branches."""
        losses, features = {}, Features(maps)
        if self.semantic_head is not None:
            logits, features.semantic = self.semantic_head(maps)
            losses["loss_semantic_seg"] = self.semantic_head.loss(logits, semantic_labels(targets))
        if self.glbctx_head is not None:
            logits, features.context = self.glbctx_head(maps)
            labels = [each["labels"] for each in targets]
            losses["loss_glbctx"] = self.glbctx_head.loss(logits, labels)
        for stage, weight in enumerate(self.weights):
            samples = self.sample(stage, features, proposals, targets)
            shared = self.shared(stage, features, rois_of([each.boxes for each in samples]))
            head: Any = self.bbox_head[stage]
            logits, deltas = head.outputs(shared)
            found = head.loss(logits, deltas, samples, self.train_cfg[stage])
            for name, value in found.items():
                losses[f"s{stage}.{name}"] = value * weight if "loss" in name else value
            if stage < self.num_stages - 1:
                with torch.no_grad():
                    proposals = self.next_proposals(stage, logits, deltas, samples, sizes)
        positive = shared[positives(samples).to(shared.device)]
        masks = self.masks(features, rois_of([each.positive for each in samples]), positive)
        mask_head: Any = self.mask_head
        mask_loss = mask_head.loss(masks, samples, targets, self.train_cfg[-1])["loss_mask"]
        return losses | {"loss_mask": mask_loss * sum(self.weights)}


def positives(samples: Sequence[RoISample]) -> Tensor:
    """Which regions of a batch are positive, bool: the first ones of every image."""
    marks = [torch.arange(len(each.boxes)) < len(each.objects) for each in samples]
    return torch.cat(marks)
