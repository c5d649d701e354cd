"""Dense pretraining of a small backbone, in place of ImageNet pretraining.

From scratch, DETR's loss stays on a plateau where all queries predict the average image. A backbone
that already classifies the object in each feature cell avoids the plateau.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cupola import nn
from cupola.registry import MODELS
from cupola.structures import boxes as box_ops


@MODELS.register_module()
class DensePretrainer(nn.Module):
    """backbone -> class (background last) and box of the object over each feature cell."""

    def __init__(
        self,
        backbone: Mapping[str, Any],
        num_classes: int,
        channels: int,
        background_weight: float = 0.3,
        data_preprocessor: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.background_weight = background_weight
        self.data_preprocessor = MODELS.build(data_preprocessor or {"type": "DetDataPreprocessor"})
        self.backbone = MODELS.build(backbone)
        self.head = nn.Conv2d(channels, num_classes + 1 + 4, 1)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """pixels [B, 3, H, W] -> logits [B, h, w, C+1], boxes [B, h, w, 4] cxcywh in 0..1."""
        out = self.head(self.backbone(pixels)[-1]).permute(0, 2, 3, 1)
        return out[..., :-4], out[..., -4:].sigmoid()

    def loss(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Cross entropy over all cells, L1 and GIoU over the cells inside an object."""
        logits, boxes = self(batch["pixels"])
        height, width = batch["pixels"].shape[-2:]
        labels, goals = self._cell_targets(batch["targets"], logits.shape[1:3], (height, width))
        weight = logits.new_ones(self.num_classes + 1)
        weight[-1] = self.background_weight
        inside = labels < self.num_classes
        found, wanted = boxes[inside], goals[inside]
        count = max(int(inside.sum()), 1)
        overlap = box_ops.giou(box_ops.cxcywh_to_xyxy(found), box_ops.cxcywh_to_xyxy(wanted))
        return {
            "loss_cls": F.cross_entropy(logits.flatten(0, 2), labels.flatten(), weight),
            "loss_bbox": 5 * (found - wanted).abs().sum() / count,
            "loss_iou": (1 - overlap).sum() / count,
            "accuracy": (logits.argmax(-1) == labels)[inside].float().mean(),
        }

    def _cell_targets(
        self, targets: Sequence[Mapping[str, Tensor]], grid: Sequence[int], size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """The smallest object over each cell's center: labels [B, h, w], boxes [B, h, w, 4]."""
        h, w = grid
        device = targets[0]["boxes"].device
        y = (torch.arange(h, device=device) + 0.5) / h
        x = (torch.arange(w, device=device) + 0.5) / w
        labels = torch.full((len(targets), h, w), self.num_classes, device=device)
        goals = torch.zeros(len(targets), h, w, 4, device=device)
        for i, target in enumerate(targets):
            unit = box_ops.scale(target["boxes"].float(), (1 / size[0], 1 / size[1]))
            for j in box_ops.area(unit).argsort(descending=True).tolist():
                left, top, right, bottom = unit[j]
                over = ((y > top) & (y < bottom))[:, None] & ((x > left) & (x < right))[None]
                labels[i][over] = target["labels"][j]
                goals[i][over] = box_ops.xyxy_to_cxcywh(unit[j])
        return labels, goals
