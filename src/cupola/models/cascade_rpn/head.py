"""CascadeRPNHead: the stages, one after the other."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from cupola import nn
from cupola.models.cascade_rpn.stage import StageOutput
from cupola.models.dense import ImageSizes
from cupola.models.dense.targets import Targets
from cupola.registry import MODELS
from cupola.structures import Detections

Config = Mapping[str, Any]
Sizes = Sequence[tuple[int, int]]
Factors = Sequence[Sequence[float] | None]


@MODELS.register_module()
class CascadeRPNHead(nn.Module):
    """Proposals of the last stage; each stage moves the anchors of the one before.

    Source: mmdet/models/dense_heads/cascade_rpn_head.py.
    """

    needs_sizes = True  # anchors are moved within the images
    takes_views = False  # the original has no test-time augmentation of it

    def __init__(
        self,
        num_stages: int,
        stages: Sequence[Config],
        num_classes: int = 1,
        train_cfg: Sequence[Config] | None = None,
        test_cfg: Config | None = None,
        init_cfg: Any = None,
    ) -> None:
        super().__init__()
        self.init_cfg = init_cfg
        if num_stages != len(stages) or (train_cfg and len(train_cfg) != num_stages):
            raise ValueError(f"num_stages is {num_stages}, with {len(stages)} stages and train_cfg")
        if num_classes != 1 or not stages[-1].get("with_cls", True):
            raise ValueError("CascadeRPNHead has the class 'object' alone, in its last stage")
        self.num_classes = num_classes
        self.test_cfg = dict(test_cfg or {})
        self.stages = nn.ModuleList(
            MODELS.build({**each, "train_cfg": training, "test_cfg": test_cfg})
            for each, training in zip(stages, train_cfg or [{}] * num_stages, strict=True)
        )

    @property
    def last(self) -> Any:
        """The last stage, which has the scores."""
        return self.stages[-1]

    def forward(self, maps: Sequence[Tensor], sizes: Sizes) -> StageOutput:
        """Feature maps [B, C, h_i, w_i] of images of (height, width) -> StageOutput."""
        stages: list[Any] = list(self.stages)
        anchors = [each.expand(len(maps[0]), -1, -1) for each in stages[0].anchors(maps)]
        previous: list[Any] = []
        for i, stage in enumerate(stages):
            maps, output = stage.stage(maps, anchors)
            if i < len(stages) - 1:
                anchors = stage.refined(output, sizes)
                previous.append(output)
        found: StageOutput = output._replace(previous=tuple(previous))
        return found

    def loss(self, output: StageOutput, targets: Targets, sizes: ImageSizes) -> dict[str, Tensor]:
        """s0.loss_rpn_reg, ..., and loss_rpn_cls of stages with classes."""
        losses: dict[str, Tensor] = {}
        for i, (stage, found) in enumerate(
            zip(self.stages, (*output.previous, output), strict=True)
        ):
            own: dict[str, Tensor] = stage.loss(found, targets, sizes)
            losses |= {f"s{i}.{name}": value for name, value in own.items()}
        return losses

    def propose(
        self, output: StageOutput, sizes: Sizes, cfg: Config, factors: Factors | None = None
    ) -> list[Detections]:
        """As RPNHead's, of the last stage."""
        found: list[Detections] = self.last.propose(output, sizes, cfg, factors)
        return found

    def predict(
        self, output: StageOutput, sizes: Sizes, scale_factors: Factors
    ) -> list[Detections]:
        """The proposals of every image as Detections of class 0, in pixels of the original."""
        return self.propose(output, sizes, self.test_cfg, scale_factors)

    def fixed_proposals(self, output: StageOutput, size: tuple[int, int]) -> Tensor:
        """The proposals of one image [P, 4] for exports: P does not depend on the data."""
        found: Tensor = self.last.fixed_proposals(output, size)
        return found

    def scored_boxes(self, output: StageOutput) -> tuple[Tensor, Tensor]:
        """Scores [B, S, 1] and boxes [B, S, 4], xyxy in pixels, of all anchors."""
        logits, deltas = self.last.joined(output)
        boxes = self.last.bbox_coder.decode(torch.cat(output.anchors, 1), deltas)
        return self.last.scores(logits), boxes
