"""YOLACT."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cupola.models.dense import ImageSizes
from cupola.models.dense.anchor_head import joined_levels
from cupola.models.detector import Detector
from cupola.registry import MODELS
from cupola.structures import Detections

Config = Mapping[str, Any]
Size = tuple[int, int]


class YOLACTOutput(NamedTuple):
    """boxes: CoefficientOutput; prototypes [B, K, h, w]."""

    boxes: Any
    prototypes: Tensor


@MODELS.register_module()
class YOLACT(Detector):
    """`bbox_head` predicts boxes with coefficients, `mask_head` the prototypes.

    Source: mmdet/models/detectors/yolact.py.
    """

    predicts_masks = True
    exported_names = ("scores", "boxes", "coefficients", "prototypes")

    def __init__(
        self,
        backbone: Config,
        bbox_head: Config,
        mask_head: Config,
        neck: Config | None = None,
        segm_head: Config | None = None,
        train_cfg: Config | None = None,
        test_cfg: Config | None = None,
        data_preprocessor: Config | None = None,
        pretrained: str | None = None,
        init_cfg: Any = None,
    ) -> None:
        settings = {"train_cfg": train_cfg, "test_cfg": test_cfg}
        more = (data_preprocessor, pretrained, init_cfg)
        super().__init__(backbone, bbox_head, neck, train_cfg, test_cfg, *more)
        self.segm_head = None
        if segm_head is not None:  # of MMDetection 2.x, where the mask head has no branch
            self.segm_head = MODELS.build(segm_head)
            mask_head = {**mask_head, "with_seg_branch": False}
        self.mask_head = MODELS.build({**mask_head, **settings})

    @property
    def num_classes(self) -> int:
        """The number of classes, without the background."""
        return int(self.bbox_head.num_classes)

    def forward(self, pixels: Tensor, padding_mask: Tensor | None = None) -> YOLACTOutput:
        """pixels [B, 3, H, W] -> YOLACTOutput."""
        return self.outputs(self.maps(pixels))

    def outputs(self, maps: Sequence[Tensor]) -> YOLACTOutput:
        """Feature maps, finest first -> YOLACTOutput."""
        return YOLACTOutput(self.bbox_head(maps), self.mask_head(maps))

    def exported(self, pixels: Tensor, padding_mask: Tensor | None = None) -> tuple[Tensor, ...]:
        """Scores [B, S, C], boxes [B, S, 4], coefficients [B, S, K], prototypes [B, K, h, w]."""
        output = self(pixels)
        scores, boxes = self.bbox_head.scored_boxes(output.boxes)
        rows = joined_levels(output.boxes.coefficients, self.bbox_head.num_prototypes)
        return scores, boxes, rows, output.prototypes

    def loss(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """loss_cls, loss_bbox, loss_mask and loss_segm; targets have boxes, labels and masks."""
        maps, targets, sizes = self.maps(batch["pixels"]), batch["targets"], ImageSizes.of(batch)
        size = (int(batch["pixels"].shape[-2]), int(batch["pixels"].shape[-1]))
        output = self.outputs(maps)
        losses, positives = self.bbox_head.loss_and_positives(output.boxes, targets, sizes)
        losses["loss_mask"] = self.mask_head.loss(
            output.prototypes, positives, targets, size, sizes.content
        )
        if (branch := self.segm_head or self.mask_head.segm_branch) is not None:
            losses["loss_segm"] = branch.loss(maps[0], targets, size)
        return losses

    @torch.no_grad()
    def predict(self, batch: Mapping[str, Any]) -> list[Detections]:
        """Detections with masks per image, in pixels of `original_sizes` if these are given."""
        sizes = batch["image_sizes"]
        factors = batch.get("scale_factors") or [None] * len(sizes)
        originals = batch.get("original_sizes") or sizes
        output = self(batch["pixels"])
        whole = batch["pixels"].shape[-2:]
        answers = []
        for i, (found, rows) in enumerate(self.bbox_head.detect(output.boxes, sizes)):
            # Without padding this is the whole map, as in the original, which resizes all of it.
            h, w = (
                max(round(cells * side / full), 1)
                for cells, side, full in zip(
                    output.prototypes.shape[-2:], sizes[i], whole, strict=True
                )
            )
            prototypes = output.prototypes[i, :, :h, :w].float()
            masks = self.mask_head.masks(prototypes, rows, found.boxes, sizes[i])
            boxes = found.boxes
            if (factor := factors[i]) is not None:
                boxes = boxes / boxes.new_tensor([*factor[:2], *factor[:2]])
            masks = self.mask_head.resized(masks, originals[i])
            answers.append(replace(found, boxes=boxes, masks=masks))
        return answers
