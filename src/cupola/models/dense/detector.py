"""Detectors of one stage: backbone, neck and a head at every cell."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from cupola import nn
from cupola.registry import MODELS
from cupola.structures import Detections

Config = Mapping[str, Any]


class SingleStageDetector(nn.Module):
    """The head gets the feature pyramid, and gives its output, losses and detections.

    Source: mmdet/models/detectors/single_stage.py.
    """

    def __init__(
        self,
        backbone: Config,
        bbox_head: Config,
        neck: Config | None = None,
        train_cfg: Config | None = None,
        test_cfg: Config | None = None,
        data_preprocessor: Config | None = None,
        pretrained: str | None = None,
        init_cfg: Any = None,
    ) -> None:
        super().__init__()
        self.init_cfg = init_cfg
        if pretrained:
            backbone = {**backbone, "pretrained": pretrained}
        self.data_preprocessor = MODELS.build(data_preprocessor or {"type": "DetDataPreprocessor"})
        self.backbone = MODELS.build(backbone)
        self.neck = MODELS.build(neck) if neck else None
        self.bbox_head = MODELS.build({**bbox_head, "train_cfg": train_cfg, "test_cfg": test_cfg})

    def maps(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """pixels [B, 3, H, W] -> feature maps [B, C, h_i, w_i], finest first."""
        maps = self.backbone(pixels)
        return tuple(maps if self.neck is None else self.neck(maps))

    def forward(self, pixels: Tensor, padding_mask: Tensor | None = None) -> Any:
        """pixels [B, 3, H, W] -> the head's output. Padding is zeros like any other pixels."""
        return self.bbox_head(self.maps(pixels))

    def scored_boxes(
        self, pixels: Tensor, padding_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Scores [B, S, C] and boxes [B, S, 4], xyxy in pixels, of all cells: what is exported."""
        scores, boxes = self.bbox_head.scored_boxes(self(pixels, padding_mask))
        return scores, boxes

    def loss(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Losses of a batch: pixels, and targets (boxes xyxy in pixels, labels)."""
        losses: dict[str, Tensor] = self.bbox_head.loss(self(batch["pixels"]), batch["targets"])
        return losses

    @torch.no_grad()
    def predict(self, batch: Mapping[str, Any]) -> list[Detections]:
        """Detections per image, in pixels of the original image if `scale_factors` are given."""
        sizes = batch["image_sizes"]
        factors = batch.get("scale_factors") or [None] * len(sizes)
        found: list[Detections] = self.bbox_head.predict(self(batch["pixels"]), sizes, factors)
        return found
