"""A detector of one stage that learns from a teacher."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from cupola.models.dense import ImageSizes, SingleStageDetector
from cupola.registry import MODELS

Config = Mapping[str, Any]


@MODELS.register_module()
class KnowledgeDistillationSingleStageDetector(SingleStageDetector):
    """The head's `loss_with_teacher` gets the boxes of `teacher_config`'s model too.

    `teacher_config` is a config with a "model". With the path of one, which only the training
    reads (cupola.train.teachers), the model predicts, but does not train. `teacher_ckpt` is the
    checkpoint that the training loads into `teacher`, which is not part of the state dict.
    Source: mmdet/models/detectors/kd_one_stage.py.
    """

    def __init__(
        self,
        backbone: Config,
        bbox_head: Config,
        teacher_config: Config | str,
        neck: Config | None = None,
        teacher_ckpt: str | None = None,
        eval_teacher: bool = True,
        **parts: Any,
    ) -> None:
        super().__init__(backbone, bbox_head, neck, **parts)
        self.eval_teacher, self.teacher_ckpt = eval_teacher, teacher_ckpt
        known = isinstance(teacher_config, Mapping)
        # Not a child: its weights are not this model's.
        self._teachers = (MODELS.build(teacher_config["model"]),) if known else ()  # type: ignore[index]

    @property
    def teacher(self) -> Any:
        """The teacher; ValueError where the config names only its file."""
        if not self._teachers:
            raise ValueError(
                "model.teacher_config is a path, which only `cupola train` reads; set it to the "
                "teacher's config, {'model': {...}}"
            )
        return self._teachers[0]

    def loss(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Losses of a batch: pixels, and targets (boxes xyxy in pixels, labels)."""
        pixels, sizes = batch["pixels"], ImageSizes.of(batch)
        teacher = self.teacher.to(pixels.device)
        teacher.train(self.training and not self.eval_teacher)
        with torch.no_grad():
            boxes = teacher(pixels).boxes
        losses: dict[str, Tensor] = self.head.loss_with_teacher(
            self(pixels), boxes, batch["targets"], sizes
        )
        return losses
