"""HybridTaskCascade and its head of regions.

Letters: R regions of a batch, C classes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cupola.models.rcnn import CascadeRoIHead, TwoStageDetector
from cupola.models.rcnn.roi_extractor import rois_of
from cupola.models.rcnn.sampling import RoISample
from cupola.registry import MODELS

Config = Mapping[str, Any]
Size = tuple[int, int]
Targets = Sequence[Mapping[str, Tensor]]


@MODELS.register_module()
class HybridTaskCascade(TwoStageDetector):
    """Source: mmdet/models/detectors/htc.py."""


class Features(tuple[Tensor, ...]):
    """The maps of the pyramid, and the features of the semantic branch.

    context [B, C, 1, 1] are features of the whole image, of heads that have them.
    """

    semantic: Tensor | None = None
    context: Tensor | None = None


@MODELS.register_module()
class HybridTaskCascadeRoIHead(CascadeRoIHead):
    """A cascade whose masks are computed on the boxes that the same stage refined.

    Each mask head gets the features of those before; the semantic branch's features are added to
    those of regions. With `every_mask` predicted masks are means over the stages, as in MMDetection
    2.x, and otherwise those of the last one. Source: mmdet/models/roi_heads/htc_roi_head.py.
    """

    def __init__(
        self,
        num_stages: int,
        stage_loss_weights: Sequence[float],
        semantic_roi_extractor: Config | None = None,
        semantic_head: Config | None = None,
        semantic_fusion: Sequence[str] = ("bbox", "mask"),
        interleaved: bool = True,
        mask_info_flow: bool = True,
        every_mask: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(num_stages, stage_loss_weights, **options)
        self.fusion, self.every_mask = tuple(semantic_fusion), every_mask
        self.interleaved, self.flow = interleaved, mask_info_flow
        self.semantic_head: Any = None
        self.semantic_roi_extractor: Any = None
        self.add_semantic(semantic_roi_extractor, semantic_head)

    def add_semantic(self, extractor: Config | None, head: Config | None) -> None:
        """Builds the semantic branch, where there is one."""
        if head is not None:
            assert extractor is not None
            self.semantic_roi_extractor = MODELS.build(extractor)
            self.semantic_head = MODELS.build(head)

    def with_semantic(self, maps: Sequence[Tensor]) -> Features:
        """The maps with the features of the semantic branch."""
        if isinstance(maps, Features):
            return maps
        found = Features(maps)
        if self.semantic_head is not None:
            found.semantic = self.semantic_head(maps)[1]
        return found

    def forward(self, maps: Sequence[Tensor], *args: Any) -> Any:
        """See CascadeRoIHead; the masks are those of the last stage."""
        return super().forward(self.with_semantic(maps), *args)

    def predict(self, maps: Sequence[Tensor], *args: Any) -> Any:
        """Detections of every image, in pixels of the original if `factors` are given."""
        return super().predict(self.with_semantic(maps), *args)

    def scored_boxes(self, maps: Sequence[Tensor], *args: Any) -> tuple[Tensor, Tensor]:
        """Proposals [P, 4] of one image -> scores [P, C] and boxes [P, C or 1, 4]."""
        return super().scored_boxes(self.with_semantic(maps), *args)

    def box_stage(self, stage: int, maps: Any, rois: Tensor) -> tuple[Tensor, Tensor]:
        """rois [R, 5] -> logits [R, C + 1] and deltas of one stage."""
        regions = self.bbox_roi_extractor[stage](maps, rois)
        logits, deltas = self.bbox_head[stage](self._fused("bbox", regions, maps, rois))
        return logits, deltas

    def mask_regions(self, stage: int, maps: Any, rois: Tensor) -> Tensor:
        """rois [R, 5] -> the input of a stage's mask head."""
        return self._fused("mask", super().mask_regions(stage, maps, rois), maps, rois)

    def _fused(self, kind: str, regions: Tensor, maps: Features, rois: Tensor) -> Tensor:
        if maps.semantic is None or kind not in self.fusion:
            return regions
        assert self.semantic_roi_extractor is not None
        semantic = self.semantic_roi_extractor([maps.semantic], rois)
        if semantic.shape[-2:] != regions.shape[-2:]:
            h, w = regions.shape[-2:]
            semantic = F.adaptive_avg_pool2d(semantic, (h, w))
        return regions + semantic

    def masks_of_stages(self, maps: Any, rois: Tensor) -> Tensor:
        """The probabilities of the masks, [R, C, m, n]: of the last stage, or the mean of all."""
        last = self.num_stages - 1
        regions = self.mask_regions(last, maps, rois)
        stages = range(self.num_stages) if self.every_mask else [last]
        masks = [self.stage_masks(stage, regions).float().sigmoid() for stage in stages]
        return masks[0] if len(masks) == 1 else torch.stack(masks).mean(0)

    def stage_masks(self, stage: int, regions: Tensor) -> Tensor:
        """The mask logits of a stage, which uses the features of all before."""
        assert self.mask_head is not None
        before = None
        for i in range(stage + 1) if self.flow else [stage]:
            before = self.mask_head[i].features(regions, before)
        logits: Tensor = self.mask_head[stage].masks(before)
        return logits

    def mask_loss(
        self, stage: int, maps: Any, samples: Sequence[RoISample], targets: Targets
    ) -> dict[str, Tensor]:
        """loss_mask of a stage; nothing without mask heads."""
        if self.mask_head is None:
            return {}
        regions = self.mask_regions(stage, maps, rois_of([each.positive for each in samples]))
        losses: dict[str, Tensor] = self.mask_head[stage].loss(
            self.stage_masks(stage, regions), samples, targets, self.train_cfg[stage]
        )
        return losses

    def loss(
        self,
        maps: Sequence[Tensor],
        proposals: Sequence[Tensor],
        targets: Targets,
        sizes: Sequence[Size],
    ) -> dict[str, Tensor]:
        """The losses of every stage, and loss_semantic_seg where there is a semantic branch.

        The branch needs targets with "semantic", the classes of the padded image's pixels [H, W].
        """
        losses = {}
        features = Features(maps)
        if self.semantic_head is not None:
            logits, features.semantic = self.semantic_head(maps)
            labels = semantic_labels(targets)
            losses["loss_semantic_seg"] = self.semantic_head.loss(logits, labels)
        for stage, weight in enumerate(self.weights):
            samples = self.sample(stage, features, proposals, targets)
            rois = rois_of([each.boxes for each in samples])
            logits, deltas = self.box_stage(stage, features, rois)
            found = self.bbox_head[stage].loss(logits, deltas, samples, self.train_cfg[stage])
            if stage < self.num_stages - 1 or self.interleaved:
                with torch.no_grad():
                    proposals = self.next_proposals(stage, logits, deltas, samples, sizes)
            if self.mask_head is not None and self.interleaved:
                samples = self.sample(stage, features, proposals, targets)
            found |= self.mask_loss(stage, features, samples, targets)
            for name, value in found.items():
                losses[f"s{stage}.{name}"] = value * weight if "loss" in name else value
        return losses


def semantic_labels(targets: Targets) -> Tensor:
    """The classes of pixels of all images [B, 1, H, W]; ValueError if the targets have none."""
    if "semantic" not in targets[0]:
        raise ValueError(
            "targets need `semantic` to train the semantic branch; without stuff "
            "annotations set roi_head.semantic_head to None"
        )
    return torch.stack([each["semantic"] for each in targets])[:, None]
