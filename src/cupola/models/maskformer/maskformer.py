"""MaskFormer, the segmentation model: backbone, head, postprocessing."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cupola import nn
from cupola.models.backbones import SwinTransformer
from cupola.models.mask_classification import MaskOutput
from cupola.models.maskformer.inspection import inspect_masks
from cupola.registry import MODELS
from cupola.structures import Detections, pad_to_multiple

Config = Mapping[str, Any]


@MODELS.register_module()
class MaskFormer(nn.Module):
    """Instance and panoptic segmentation from configs of MMDetection 3.x and 2.x.

    Mask2Former differs in its head alone (`Mask2FormerHead`).
    Source: mmdet/models/detectors/{maskformer,mask2former}.py.
    """

    predicts_masks = True

    @property
    def fixed_axes(self) -> tuple[str, ...]:
        """The axes that exported graphs fix; to trace Swin with any size takes many minutes."""
        swin = isinstance(self.backbone, SwinTransformer)
        return ("batch", "height", "width") if swin else ("batch",)

    def __init__(
        self,
        backbone: Config,
        panoptic_head: Config,
        panoptic_fusion_head: Config,
        neck: Config | None = None,
        train_cfg: Config | None = None,
        test_cfg: Config | None = None,
        data_preprocessor: Config | None = None,
        init_cfg: Any = None,
    ) -> None:
        super().__init__()
        self.init_cfg = init_cfg
        self.data_preprocessor = MODELS.build(data_preprocessor or {"type": "DetDataPreprocessor"})
        self.backbone = MODELS.build(backbone)
        self.neck = MODELS.build(neck) if neck else None
        self.panoptic_head = MODELS.build(
            {**panoptic_head, "train_cfg": train_cfg, "test_cfg": test_cfg}
        )
        self.panoptic_fusion_head = MODELS.build({**panoptic_fusion_head, "test_cfg": test_cfg})

    def forward(
        self, pixels: Tensor, padding_mask: Tensor | None = None, last_only: bool = False
    ) -> MaskOutput:
        """pixels [B, 3, H, W]; padding_mask [B, H, W], True = padded -> MaskOutput.

        With `last_only` MaskFormer computes the masks of the last decoder layer alone.
        """
        output: MaskOutput = self.panoptic_head(self.extract(pixels), padding_mask, last_only)
        return output

    def extract(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """pixels [B, 3, H, W] -> feature maps [B, C_i, h_i, w_i]."""
        maps: tuple[Tensor, ...] = self.backbone(pixels)
        return maps if self.neck is None else self.neck(maps)

    def loss(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Losses of a batch: pixels, padding_mask, targets with labels and masks."""
        pixels, padding_mask = self._padded(batch)
        output = self(pixels, padding_mask)
        size = (pixels.shape[-2], pixels.shape[-1])
        losses: dict[str, Tensor] = self.panoptic_head.loss(output, batch["targets"], size)
        return losses

    @torch.no_grad()
    def predict(self, batch: Mapping[str, Any]) -> list[Detections]:
        """Detections with masks per image, in pixels of `original_sizes` where these are given."""
        sizes = batch["image_sizes"]
        pixels, padding_mask = self._padded(batch)
        output = self(pixels, padding_mask, last_only=True).at_least_float32()
        padded = (pixels.shape[-2], pixels.shape[-1])
        logits, masks = output.logits[-1], output.masks[-1]
        originals = batch.get("original_sizes") or sizes
        found: list[Detections] = self.panoptic_fusion_head.predict(
            logits, masks, padded, sizes, originals
        )
        return found

    def _padded(self, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor | None]:
        """Pixels and padding mask with sides that are multiples of `pad_size_divisor`."""
        pixels, padding_mask = batch["pixels"], batch.get("padding_mask")
        padded = pad_to_multiple(pixels, self.data_preprocessor.pad_size_divisor)
        if padded.shape == pixels.shape:
            return pixels, padding_mask
        if padding_mask is None:
            padding_mask = pixels.new_zeros(len(pixels), *pixels.shape[2:], dtype=torch.bool)
        right, bottom = (padded.shape[axis] - pixels.shape[axis] for axis in (-1, -2))
        return padded, F.pad(padding_mask, (0, right, 0, bottom), value=True)

    def inspect(self, pixels: Tensor) -> dict[str, Tensor]:
        """Scores, boxes and masks of the queries for one image; see inspect_masks."""
        return inspect_masks(self, pixels)
