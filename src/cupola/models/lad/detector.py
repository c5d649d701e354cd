"""LAD: a detector with a teacher that assigns anchors."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from cupola.models.dense import ImageSizes
from cupola.models.ld.detector import KnowledgeDistillationSingleStageDetector
from cupola.registry import MODELS

Config = Mapping[str, Any]


@MODELS.register_module()
class LAD(KnowledgeDistillationSingleStageDetector):
    """The teacher's parts are in the config; it is not part of the state dict.

    The training loads `teacher_ckpt` into `teacher` (cupola.train.teachers).
    Source: mmdet/models/detectors/lad.py.
    """

    def __init__(
        self,
        backbone: Config,
        bbox_head: Config,
        teacher_backbone: Config,
        teacher_bbox_head: Config,
        teacher_neck: Config | None = None,
        train_cfg: Config | None = None,
        test_cfg: Config | None = None,
        **options: Any,
    ) -> None:
        settings: dict[str, Any] = {"train_cfg": train_cfg, "test_cfg": test_cfg}
        parts = {"backbone": teacher_backbone, "neck": teacher_neck, "bbox_head": teacher_bbox_head}
        teacher = {"type": "SingleStageDetector", **parts, **settings}
        super().__init__(backbone, bbox_head, {"model": teacher}, **options, **settings)

    def loss(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """loss_cls, loss_bbox and loss_iou with the anchors that the teacher assigns."""
        pixels, targets = batch["pixels"], batch["targets"]
        teacher = self.teacher.to(pixels.device)
        teacher.train(self.training and not self.eval_teacher)
        with torch.no_grad():
            output = teacher(pixels)
            assignment = teacher.head.assignment(output, targets, ImageSizes.of(batch))
        losses: dict[str, Tensor] = self.head.assigned_losses(
            self(pixels), assignment, len(targets)
        )
        return losses
