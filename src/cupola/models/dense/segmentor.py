"""Detectors of one stage whose head predicts masks without boxes."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from cupola.models.detector import Detector
from cupola.registry import MODELS
from cupola.structures import Detections

Config = Mapping[str, Any]


class InstanceSegmentor(Detector):
    """`mask_head` gets the feature pyramid, and gives its output, losses and detections.

    Source: mmdet/models/detectors/single_stage_instance_seg.py.
    """

    predicts_masks = True
    fixed_axes = (
        "batch",
        "height",
        "width",
    )  # that exported graphs fix: maps of all levels must fit

    def __init__(
        self,
        backbone: Config,
        mask_head: Config,
        neck: Config | None = None,
        train_cfg: Config | None = None,
        test_cfg: Config | None = None,
        data_preprocessor: Config | None = None,
        pretrained: str | None = None,
        init_cfg: Any = None,
    ) -> None:
        super().__init__(backbone, None, neck, None, None, data_preprocessor, pretrained, init_cfg)
        settings = {"train_cfg": train_cfg, "test_cfg": test_cfg}
        self.mask_head = MODELS.build({**mask_head, **settings})

    @property
    def num_classes(self) -> int:
        """The number of classes, without the background."""
        return int(self.mask_head.num_classes)

    def forward(self, pixels: Tensor, padding_mask: Tensor | None = None) -> Any:
        """pixels [B, 3, H, W] -> the head's output. Padding is zeros like any other pixels."""
        return self.mask_head(self.maps(pixels))

    @property
    def exported_names(self) -> tuple[str, ...]:
        """The names of what `exported` gives."""
        return tuple(self.mask_head.exported_names)

    def exported(self, pixels: Tensor, padding_mask: Tensor | None = None) -> tuple[Tensor, ...]:
        """What an exported program computes of pixels [B, 3, H, W], before thresholds and NMS."""
        found: tuple[Tensor, ...] = self.mask_head.exported(self(pixels))
        return found

    def loss(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Losses of a batch: pixels, and targets (boxes xyxy in pixels, labels, masks)."""
        pixels = self.padded(batch["pixels"])
        size = (int(pixels.shape[-2]), int(pixels.shape[-1]))
        losses: dict[str, Tensor] = self.mask_head.loss(self(pixels), batch["targets"], size)
        return losses

    @torch.no_grad()
    def predict(self, batch: Mapping[str, Any]) -> list[Detections]:
        """Detections with masks per image, in pixels of `original_sizes` if these are given."""
        pixels, sizes = batch["pixels"], batch["image_sizes"]
        output = self(self.padded(pixels) if self.mask_head.adds_levels else pixels)
        originals = batch.get("original_sizes") or sizes
        found: list[Detections] = self.mask_head.predict(output, sizes, originals)
        return found
