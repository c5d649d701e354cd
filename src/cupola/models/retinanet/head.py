"""RetinaNet and its head."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from cupola import nn
from cupola.models.dense import AnchorHead, DenseOutput, SingleStageDetector
from cupola.models.dense.stacks import apply, initial, stack
from cupola.registry import MODELS
from cupola.registry.budget import reserve

Config = Mapping[str, Any]
ANCHORS: Config = {
    "type": "AnchorGenerator",
    "octave_base_scale": 4,
    "scales_per_octave": 3,
    "ratios": [0.5, 1.0, 2.0],
    "strides": [8, 16, 32, 64, 128],
}


@MODELS.register_module()
class RetinaNet(SingleStageDetector):
    """Source: mmdet/models/detectors/retinanet.py."""


@MODELS.register_module()
class RetinaHead(AnchorHead):
    """Two stacks of convolutions, shared by all levels: one for classes, one for boxes.

    Source: mmdet/models/dense_heads/retina_head.py.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        stacked_convs: int = 4,
        conv_cfg: Config | None = None,
        norm_cfg: Config | None = None,
        anchor_generator: Config = ANCHORS,
        init_cfg: Any = None,
        **options: Any,
    ) -> None:
        super().__init__(
            num_classes,
            in_channels,
            anchor_generator=anchor_generator,
            init_cfg=init_cfg or initial("retina_cls"),
            **options,
        )

        settings = (stacked_convs, in_channels, self.feat_channels, conv_cfg, norm_cfg)
        self.cls_convs, self.reg_convs = stack(*settings), stack(*settings)
        channels = self.feat_channels if stacked_convs else in_channels
        count = self.anchors.counts[0]
        self.retina_cls = nn.Conv2d(channels, count * self.cls_channels, 3, padding=1)
        self.retina_reg = nn.Conv2d(channels, count * 4, 3, padding=1)

    def level(self, x: Tensor) -> tuple[Tensor, ...]:
        """A map [B, in_channels, h, w] -> logits [B, A * C, h, w], deltas [B, A * 4, h, w]."""
        for_class, for_box = apply(self.cls_convs, x), apply(self.reg_convs, x)
        return self.retina_cls(for_class), self.retina_reg(for_box)


@MODELS.register_module()
class RetinaSepBNHead(RetinaHead):
    """A RetinaHead whose `num_ins` levels share convolutions, but have norms of their own.

    Source: mmdet/models/dense_heads/retina_sepbn_head.py.
    """

    def __init__(
        self,
        num_classes: int,
        num_ins: int,
        in_channels: int,
        stacked_convs: int = 4,
        conv_cfg: Config | None = None,
        norm_cfg: Config | None = None,
        **options: Any,
    ) -> None:
        super().__init__(num_classes, in_channels, stacked_convs, conv_cfg, norm_cfg, **options)
        settings = (stacked_convs, in_channels, self.feat_channels, conv_cfg, norm_cfg)
        reserve(num_ins * stacked_convs)
        self.cls_convs = shared_stacks(num_ins, *settings)
        self.reg_convs = shared_stacks(num_ins, *settings)

    def forward(self, maps: Sequence[Tensor]) -> DenseOutput:
        """Feature maps [B, in_channels, h_i, w_i] -> DenseOutput."""
        logits, deltas = [], []
        for x, for_class, for_box in zip(maps, self.cls_convs, self.reg_convs, strict=True):
            logits.append(self.retina_cls(apply(for_class, x)))
            deltas.append(self.retina_reg(apply(for_box, x)))
        return DenseOutput(tuple(logits), tuple(deltas))


def shared_stacks(levels: int, *settings: Any) -> nn.ModuleList:
    """A stack for each level; the convolutions of all are those of the first."""
    stacks = [stack(*settings) for _ in range(levels)]
    for each in stacks[1:]:
        for layer, first in zip(each, stacks[0], strict=True):
            layer.conv = first.conv
    return nn.ModuleList(stacks)
