"""ATSS and its head.

Letters: B images, C classes, A anchors of a cell, P positive anchors.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from cupola import nn
from cupola.models.boxes.distances import centerness, centers, distances
from cupola.models.dense import AnchorHead, DenseOutput, ImageSizes, SingleStageDetector
from cupola.models.dense.anchor_head import joined_levels
from cupola.models.dense.stacks import GROUP_NORM, apply, initial, stack
from cupola.models.dense.targets import AnchorTargets, Targets
from cupola.models.layers.scale import Scale
from cupola.registry import MODELS

Config = Mapping[str, Any]


@MODELS.register_module()
class ATSS(SingleStageDetector):
    """Source: mmdet/models/detectors/atss.py."""


@MODELS.register_module()
class ATSSHead(AnchorHead):
    """Classes, deltas and the centerness of the anchors, which weighs scores and box losses.

    Source: mmdet/models/dense_heads/atss_head.py.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        pred_kernel_size: int = 3,
        stacked_convs: int = 4,
        conv_cfg: Config | None = None,
        norm_cfg: Config | None = GROUP_NORM,
        reg_decoded_bbox: bool = True,
        loss_centerness: Config | None = None,
        init_cfg: Any = None,
        **options: Any,
    ) -> None:
        super().__init__(
            num_classes,
            in_channels,
            reg_decoded_bbox=reg_decoded_bbox,
            init_cfg=init_cfg or initial("atss_cls"),
            **options,
        )
        self.loss_centerness = MODELS.build(
            loss_centerness or {"type": "CrossEntropyLoss", "use_sigmoid": True}
        )
        channels, count = self.feat_channels, self.anchors.counts[0]
        settings = (stacked_convs, in_channels, channels, conv_cfg, norm_cfg)
        self.cls_convs, self.reg_convs = stack(*settings), stack(*settings)
        kernel, padding = pred_kernel_size, pred_kernel_size // 2
        self.atss_cls = nn.Conv2d(channels, count * self.cls_channels, kernel, padding=padding)
        self.atss_reg = nn.Conv2d(channels, count * 4, kernel, padding=padding)
        self.atss_centerness = nn.Conv2d(channels, count, kernel, padding=padding)
        self.scales = nn.ModuleList(Scale() for _ in self.anchors.strides)

    def forward(self, maps: Sequence[Tensor]) -> DenseOutput:
        """Feature maps [B, in_channels, h_i, w_i] -> DenseOutput; qualities are centerness."""
        levels = []
        for x, scale in zip(maps, self.scales, strict=True):
            for_class, for_box = apply(self.cls_convs, x), apply(self.reg_convs, x)
            deltas = scale(self.atss_reg(for_box))
            levels.append((self.atss_cls(for_class), deltas, self.atss_centerness(for_box)))
        return DenseOutput(*zip(*levels, strict=True))

    def loss(self, output: DenseOutput, targets: Targets, sizes: ImageSizes) -> dict[str, Tensor]:
        """loss_cls, loss_bbox (weighted by the centerness) and loss_centerness."""
        wanted = self.targets(output, targets, sizes)
        logits, deltas = self.joined(output)
        assert output.qualities is not None
        quality = joined_levels(output.qualities, 1)[..., 0]  # [B, S]
        count = self.average(wanted.average)
        losses = {"loss_cls": self.class_loss(logits, wanted, count)}
        central = centerness(distances(centers(wanted.anchors), wanted.boxes))  # [P]
        weight = self.average(central.sum())
        if not len(central):
            nothing = {"loss_bbox": deltas.sum() * 0, "loss_centerness": quality.sum() * 0}
            return losses | nothing
        boxes = self.bbox_coder.decode(wanted.anchors, deltas[wanted.positive])
        losses["loss_bbox"] = self.loss_bbox(boxes, wanted.boxes, weight=central, avg_factor=weight)
        losses["loss_centerness"] = self.loss_centerness(
            quality[wanted.positive], central, avg_factor=count
        )
        return losses

    def class_loss(self, logits: Tensor, wanted: AnchorTargets, average: float) -> Tensor:
        """The loss of the sampled anchors' logits [B, S, C]."""
        sampled = wanted.positive | wanted.negative
        labels = torch.full_like(sampled, self.num_classes, dtype=torch.int64)
        labels[wanted.positive] = wanted.labels
        loss: Tensor = self.loss_cls(logits[sampled], labels[sampled], avg_factor=average)
        return loss
