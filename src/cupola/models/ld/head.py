"""LDHead: GFL's head, whose distributions of distances also follow a teacher's.

Letters: B images, S cells of all levels, P positive cells, n = reg_max + 1.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from cupola.models.dense import DenseOutput, ImageSizes
from cupola.models.dense.anchor_head import joined_levels
from cupola.models.dense.targets import AnchorTargets, Targets
from cupola.models.gfl.head import GFLHead
from cupola.registry import MODELS

Config = Mapping[str, Any]
LOSS: Config = {"type": "KnowledgeDistillationKLDivLoss", "loss_weight": 0.25, "T": 10}


@MODELS.register_module()
class LDHead(GFLHead):
    """Source: mmdet/models/dense_heads/ld_head.py."""

    def __init__(
        self, num_classes: int, in_channels: int, loss_ld: Config = LOSS, **options: Any
    ) -> None:
        super().__init__(num_classes, in_channels, **options)
        self.loss_ld = MODELS.build(loss_ld)

    def loss_with_teacher(
        self,
        output: DenseOutput,
        teacher: Sequence[Tensor],
        targets: Targets,
        sizes: ImageSizes,
    ) -> dict[str, Tensor]:
        """The losses of GFLHead, and loss_ld; teacher: its distributions [B, 4 * n, h, w]."""
        wanted = self.targets(output, targets, sizes)
        losses = super().loss(output, targets, sizes)
        return {**losses, "loss_ld": self.distillation(output, teacher, wanted)}

    def distillation(
        self, output: DenseOutput, teacher: Sequence[Tensor], wanted: AnchorTargets
    ) -> Tensor:
        """The loss of the positive cells' distributions, weighted by their scores."""
        logits, rows = self.joined(output)
        if not wanted.positive.any():
            return rows.sum() * 0
        score = logits[wanted.positive].detach().sigmoid().amax(-1)  # [P]
        width = self.reg_max + 1
        goal = joined_levels(teacher, self.box_width)[wanted.positive]
        loss: Tensor = self.loss_ld(
            rows[wanted.positive].reshape(-1, width),
            goal.reshape(-1, width),
            weight=score[:, None].expand(-1, 4).flatten(),
            avg_factor=4.0,
        )
        return loss
