"""CondInst."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from cupola.models.dense.masked import MaskedDetector, MaskedOutput
from cupola.registry import MODELS

Size = tuple[int, int]


@MODELS.register_module()
class CondInst(MaskedDetector):
    """Networks of cells, applied to features of pixels.

    Source: mmdet/models/detectors/condinst.py.
    """

    exported_names = ("scores", "boxes", "networks", "features")
    fixed_axes = ("batch", "height", "width")  # that exported graphs fix: maps of all levels fit

    def forward(self, pixels: Tensor, padding_mask: Tensor | None = None) -> MaskedOutput:
        """pixels [B, 3, H, W] -> MaskedOutput, of sides that are multiples of 32."""
        return super().forward(self.padded(pixels), padding_mask)

    def exported(self, pixels: Tensor, padding_mask: Tensor | None = None) -> tuple[Tensor, ...]:
        """Scores [B, S, C], boxes [B, S, 4], networks [B, S, K] and features [B, D, h, w]."""
        output = self(pixels)
        scores, boxes = self.bbox_head.scored_boxes(output.boxes)
        return scores, boxes, self.bbox_head.joined(output.boxes)[-1], output.features

    def loss(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """FCOS's losses and loss_mask; targets have boxes, labels and masks."""
        output = self(batch["pixels"])
        size = self.size_of(batch["pixels"])
        losses, positives = self.bbox_head.loss_and_positives(output.boxes, batch["targets"])
        masks: dict[str, Tensor] = self.mask_head.loss(
            output.features, positives, batch["targets"], size
        )
        return losses | masks

    def size_of(self, pixels: Tensor) -> Size:
        """(height, width) of the batch as the model sees it."""
        padded = self.padded(pixels[:1, :1])
        return int(padded.shape[-2]), int(padded.shape[-1])
