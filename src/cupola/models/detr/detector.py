"""What the detectors of DETR's line share: backbone, neck and head, and predictions."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from cupola.models.detector import Detector
from cupola.models.detr.set_head import DETROutput
from cupola.structures import Detections

Config = Mapping[str, Any]


class QueryDetector(Detector):
    """Abstract: subclasses add encoder, decoder and queries, and define `forward` and `loss`.

    In configs of MMDetection 2.x the transformer is part of `bbox_head`; such a head is built as
    `nested_head`, and `nested` is True.
    Source: mmdet/models/detectors/base_detr.py.
    """

    nested_head: ClassVar[str | None] = None

    def __init__(self, backbone: Config, bbox_head: Config, *args: Any, **kwargs: Any) -> None:
        nested = self.nested_head is not None and "transformer" in bbox_head
        if nested:
            bbox_head = {**bbox_head, "type": self.nested_head}
        super().__init__(backbone, bbox_head, *args, **kwargs)
        self.nested = nested

    def forward(
        self, pixels: Tensor, padding_mask: Tensor | None = None, last_only: bool = False
    ) -> DETROutput:
        """pixels [B, 3, H, W]; padding_mask [B, H, W], True = padded -> DETROutput.

        `last_only`: of the last decoder layer alone, with L = 1.
        """
        raise NotImplementedError

    @torch.no_grad()
    def predict(self, batch: Mapping[str, Any]) -> list[Detections]:
        """Detections per image, in pixels of the original image if `scale_factors` are given."""
        output = self(batch["pixels"], batch.get("padding_mask"), True)
        sizes = batch["image_sizes"]
        factors = batch.get("scale_factors") or [None] * len(sizes)
        found: list[Detections] = self.bbox_head.predict(output, sizes, factors)
        return found
