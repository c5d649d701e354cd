"""YOLACT."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from cupola.models.dense import ImageSizes
from cupola.models.dense.anchor_head import joined_levels
from cupola.models.dense.masked import MaskedDetector
from cupola.registry import MODELS

Config = Mapping[str, Any]


@MODELS.register_module()
class YOLACT(MaskedDetector):
    """`bbox_head` predicts boxes with coefficients, `mask_head` the prototypes.

    Source: mmdet/models/detectors/yolact.py.
    """

    exported_names = ("scores", "boxes", "coefficients", "prototypes")

    def __init__(self, mask_head: Config, segm_head: Config | None = None, **options: Any) -> None:
        if segm_head is not None:  # of MMDetection 2.x, where the mask head has no branch
            mask_head = {**mask_head, "with_seg_branch": False}
        super().__init__(mask_head=mask_head, segm_head=segm_head, **options)

    def exported(self, pixels: Tensor, padding_mask: Tensor | None = None) -> tuple[Tensor, ...]:
        """Scores [B, S, C], boxes [B, S, 4], coefficients [B, S, K], prototypes [B, K, h, w]."""
        output = self(pixels)
        scores, boxes = self.bbox_head.scored_boxes(output.boxes)
        rows = joined_levels(output.boxes.coefficients, self.bbox_head.num_prototypes)
        return scores, boxes, rows, output.features

    def loss(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """loss_cls, loss_bbox, loss_mask and loss_segm; targets have boxes, labels and masks."""
        maps, targets, sizes = self.maps(batch["pixels"]), batch["targets"], ImageSizes.of(batch)
        size = (int(batch["pixels"].shape[-2]), int(batch["pixels"].shape[-1]))
        output = self.outputs(maps)
        losses, positives = self.bbox_head.loss_and_positives(output.boxes, targets, sizes)
        losses["loss_mask"] = self.mask_head.loss(
            output.features, positives, targets, size, sizes.content
        )
        if (branch := self.segm_head or self.mask_head.segm_branch) is not None:
            losses["loss_segm"] = branch.loss(maps[0], targets, size)
        return losses
