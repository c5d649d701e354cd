"""Detectors of one stage: backbone, neck and a head at every cell."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from cupola.models.dense.targets import ImageSizes
from cupola.models.detector import Detector
from cupola.registry import MODELS
from cupola.structures import Detections


@MODELS.register_module()
class SingleStageDetector(Detector):
    """The head gets the feature pyramid, and gives its output, losses and detections.

    Source: mmdet/models/detectors/single_stage.py.
    """

    @property
    def head(self) -> Any:
        """The head, under whatever name its weights have."""
        return self.bbox_head

    @property
    def predicts_masks(self) -> bool:
        """Whether the head segments objects."""
        return bool(getattr(self.head, "predicts_masks", False))

    @property
    def exported_names(self) -> tuple[str, ...]:
        """The names of what `exported` gives; none where `scored_boxes` are exported."""
        return tuple(getattr(self.head, "exported_names", ()))

    def exported(self, pixels: Tensor, padding_mask: Tensor | None = None) -> tuple[Tensor, ...]:
        """What an exported program of a model with masks computes of pixels [B, 3, H, W]."""
        found: tuple[Tensor, ...] = self.head.exported(self(pixels, padding_mask))
        return found

    def forward(self, pixels: Tensor, padding_mask: Tensor | None = None) -> Any:
        """pixels [B, 3, H, W] -> the head's output. Padding is zeros like any other pixels."""
        return self.head(self.maps(pixels))

    def outputs(self, pixels: Tensor, sizes: Sequence[tuple[int, int]]) -> Any:
        """The head's output for images of (height, width) in a batch."""
        return self(pixels)

    def scored_boxes(
        self, pixels: Tensor, padding_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Scores [B, S, C] and boxes [B, S, 4], xyxy in pixels, of all cells: what is exported."""
        scores, boxes = self.head.scored_boxes(self(pixels, padding_mask))
        return scores, boxes

    def loss(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Losses of a batch: pixels, and targets (boxes xyxy in pixels, labels)."""
        sizes = ImageSizes.of(batch)
        output = self.outputs(batch["pixels"], sizes.content)
        losses: dict[str, Tensor] = self.head.loss(output, batch["targets"], sizes)
        return losses

    @torch.no_grad()
    def predict(self, batch: Mapping[str, Any]) -> list[Detections]:
        """Detections per image, in pixels of the original image if `scale_factors` are given."""
        sizes = batch["image_sizes"]
        factors = batch.get("scale_factors") or [None] * len(sizes)
        output, more = self.outputs(batch["pixels"], sizes), []
        if self.predicts_masks:
            more = [batch.get("original_sizes") or sizes]
        found: list[Detections] = self.head.predict(output, sizes, factors, *more)
        return found
