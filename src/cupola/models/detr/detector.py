"""What the detectors of DETR's line share: backbone, neck and head, and predictions."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from cupola import nn
from cupola.models.detr.set_head import DETROutput
from cupola.registry import MODELS
from cupola.structures import Detections

Config = Mapping[str, Any]


class QueryDetector(nn.Module):
    """Abstract: subclasses add encoder, decoder and queries, and define `forward` and `loss`.

    In configs of MMDetection 2.x the transformer is part of `bbox_head`; such a head is built as
    `nested_head`, and `nested` is True.
    Source: mmdet/models/detectors/base_detr.py.
    """

    nested_head: ClassVar[str | None] = None

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
        self.nested = self.nested_head is not None and "transformer" in bbox_head
        if self.nested:
            bbox_head = {**bbox_head, "type": self.nested_head}
        self.bbox_head = MODELS.build({**bbox_head, "train_cfg": train_cfg, "test_cfg": test_cfg})

    def forward(self, pixels: Tensor, padding_mask: Tensor | None = None) -> DETROutput:
        """pixels [B, 3, H, W]; padding_mask [B, H, W], True = padded -> DETROutput."""
        raise NotImplementedError

    def maps(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """pixels [B, 3, H, W] -> feature maps [B, C, h_i, w_i], finest first."""
        maps = self.backbone(pixels)
        return tuple(maps if self.neck is None else self.neck(maps))

    @torch.no_grad()
    def predict(self, batch: Mapping[str, Any]) -> list[Detections]:
        """Detections per image, in pixels of the original image if `scale_factors` are given."""
        output = self(batch["pixels"], batch.get("padding_mask"))
        sizes = batch["image_sizes"]
        factors = batch.get("scale_factors") or [None] * len(sizes)
        found: list[Detections] = self.bbox_head.predict(output, sizes, factors)
        return found
