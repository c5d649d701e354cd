"""RTMDet and its heads.

Letters: B images, C classes, S cells of all levels, P positive cells.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from cupola import nn
from cupola.models.boxes.distances import boxes_around, centers
from cupola.models.dense import AnchorHead, DenseOutput, ImageSizes, SingleStageDetector
from cupola.models.dense.stacks import GROUP_NORM, apply
from cupola.models.dense.targets import (
    AnchorTargets,
    PaddedTargets,
    Targets,
    assigned_targets,
    usable_anchors,
)
from cupola.models.layers import ConvModule, inverse_sigmoid
from cupola.models.layers.conv_module import DepthwiseSeparableConvModule
from cupola.models.layers.scale import Scale
from cupola.registry import MODELS
from cupola.structures import Detections

Config = Mapping[str, Any]
RELU: Config = {"type": "ReLU"}
SILU: Config = {"type": "SiLU"}
BATCH_NORM: Config = {"type": "BN", "momentum": 0.03, "eps": 0.001}
BACKGROUND = -4.59512  # the logit of a score of 0.01


@MODELS.register_module()
class RTMDet(SingleStageDetector):
    """Source: mmdet/models/detectors/rtmdet.py."""

    def predict(self, batch: Mapping[str, Any]) -> list[Detections]:
        """Detections per image; images are padded, since its neck joins maps of several levels."""
        return super().predict({**batch, "pixels": self.padded(batch["pixels"])})


@MODELS.register_module()
class RTMDetHead(AnchorHead):
    """Classes and distances in pixels; all levels share the layers.

    With `with_objectness` the score is the root of its product with that of an object.
    Source: mmdet/models/dense_heads/rtmdet_head.py.
    """

    separate = False  # whether every level has layers of its own
    predicts_masks = False
    kernel_size = 0  # numbers of a network that every cell predicts, for masks

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        with_objectness: bool = True,
        stacked_convs: int = 4,
        pred_kernel_size: int = 3,
        conv_cfg: Config | None = None,
        norm_cfg: Config | None = GROUP_NORM,
        act_cfg: Config | None = RELU,
        use_depthwise: bool = False,
        reg_decoded_bbox: bool = True,
        loss_centerness: Config | None = None,
        **options: Any,
    ) -> None:
        super().__init__(num_classes, in_channels, **options)
        self.init_cfg = None
        channels = self.feat_channels
        layer = DepthwiseSeparableConvModule if use_depthwise else ConvModule
        settings: dict[str, Any] = {"conv_cfg": conv_cfg, "norm_cfg": norm_cfg, "act_cfg": act_cfg}

        def convs() -> nn.ModuleList:
            return nn.ModuleList(
                layer(channels if i else in_channels, channels, 3, padding=1, **settings)
                for i in range(stacked_convs)
            )

        def predictor(outputs: int) -> nn.Conv2d:
            return nn.Conv2d(channels, outputs, pred_kernel_size, padding=pred_kernel_size // 2)

        def of_levels(make: Any) -> Any:
            levels = len(self.anchors.strides)
            return nn.ModuleList(make() for _ in range(levels)) if self.separate else make()

        count = self.anchors.counts[0]
        self.cls_convs, self.reg_convs = of_levels(convs), of_levels(convs)
        if self.kernel_size:
            self.kernel_convs = of_levels(convs)
        self.rtm_cls = of_levels(lambda: predictor(count * self.cls_channels))
        self.rtm_reg = of_levels(lambda: predictor(count * 4))
        if self.kernel_size:
            self.rtm_kernel = of_levels(lambda: predictor(self.kernel_size))
        self.rtm_obj = of_levels(lambda: predictor(1)) if with_objectness else None
        if not self.separate:
            self.scales = nn.ModuleList(Scale() for _ in self.anchors.strides)

    def init_weights(self) -> None:
        """Normal initialization; class scores begin at 0.01."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for part in (self.rtm_cls, self.rtm_obj):
            for module in () if part is None else part.modules():
                if isinstance(module, nn.Conv2d) and module.bias is not None:
                    nn.init.constant_(module.bias, BACKGROUND)

    def forward(self, maps: Sequence[Tensor]) -> DenseOutput:
        """Feature maps [B, in_channels, h_i, w_i] -> DenseOutput; boxes are distances in pixels."""
        levels = []
        for i, x in enumerate(maps):
            for_box = apply(self._of(self.reg_convs, i), x)
            logits = self._of(self.rtm_cls, i)(apply(self._of(self.cls_convs, i), x))
            if self.rtm_obj is not None:
                objectness = self._of(self.rtm_obj, i)(for_box).sigmoid()
                logits = inverse_sigmoid((logits.sigmoid() * objectness).sqrt())
            sides = self.sides(self._of(self.rtm_reg, i)(for_box), i)
            levels.append((logits, sides * self.anchors.strides[i][0]))
        return DenseOutput(*zip(*levels, strict=True))

    def _of(self, part: Any, level: int) -> Any:
        return part[level] if self.separate else part

    def sides(self, x: Tensor, level: int) -> Tensor:
        """The prediction [B, 4, h, w] of a level -> distances in strides."""
        found: Tensor = self.scales[level](x.exp()).float()
        return found

    def decode(
        self, anchors: Tensor, rows: Tensor, stride: int, size: tuple[int, int] | None = None
    ) -> Tensor:
        """Cells [..., 4], distances [..., 4] in pixels -> boxes [..., 4]."""
        found: Tensor = self.bbox_coder.decode(centers(anchors), rows, size)
        return found

    def loss(self, output: DenseOutput, targets: Targets, sizes: ImageSizes) -> dict[str, Tensor]:
        """loss_cls (towards the IoU) and loss_bbox (weighted by it)."""
        anchors = torch.cat(self.anchors(output.logits))
        logits, rows = self.joined(output)
        boxes = boxes_around(centers(anchors), rows)
        border = self.train_cfg.get("allowed_border", -1)
        usable = usable_anchors(self.anchors, output.logits, anchors, sizes, border)
        if self.predicts_masks and not all("masks" in each for each in targets):
            raise ValueError("targets need masks to train this model: load annotations with_mask")
        objects = PaddedTargets.of(targets, anchors, self.predicts_masks)
        with torch.no_grad():
            owners, metric = self.assign(anchors, torch.stack(usable), logits, boxes, objects)
        wanted = assigned_targets(anchors, owners, objects)
        sampled = wanted.positive | wanted.negative
        labels = torch.full_like(sampled, self.num_classes, dtype=torch.int64)
        labels[wanted.positive] = wanted.labels
        total = self.average(metric.sum())
        loss_cls = self.loss_cls(
            logits[sampled], labels[sampled], avg_factor=total, quality=metric[sampled]
        )
        if not len(wanted.labels):
            losses = {"loss_cls": loss_cls, "loss_bbox": rows.sum() * 0}
            return losses | self.more_losses(output, wanted, targets)
        weight = metric[wanted.positive]
        loss_bbox = self.loss_bbox(
            boxes[wanted.positive], wanted.boxes, weight=weight, avg_factor=total
        )
        losses = {"loss_cls": loss_cls, "loss_bbox": loss_bbox}
        return losses | self.more_losses(output, wanted, targets)

    def more_losses(
        self, output: Any, wanted: AnchorTargets, targets: Targets
    ) -> dict[str, Tensor]:
        """Losses that a subclass adds."""
        return {}

    def assign(self, *parts: Any) -> tuple[Tensor, Tensor]:
        """What the assigner of `train_cfg` makes of cells, predictions and objects."""
        if self.assigner is None:
            raise ValueError("the model's train_cfg is missing: it names the assigner")
        found: tuple[Tensor, Tensor] = self.assigner(*parts)
        return found


@MODELS.register_module()
class RTMDetSepBNHead(RTMDetHead):
    """Levels share the convolutions (`share_conv`), but not the norms and the predictions.

    Distances are exponents with `exp_on_reg` only.
    """

    separate = True

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        share_conv: bool = True,
        norm_cfg: Config | None = BATCH_NORM,
        act_cfg: Config | None = SILU,
        pred_kernel_size: int = 1,
        exp_on_reg: bool = False,
        **options: Any,
    ) -> None:
        settings: dict[str, Any] = {"norm_cfg": norm_cfg, "act_cfg": act_cfg}
        super().__init__(
            num_classes, in_channels, pred_kernel_size=pred_kernel_size, **settings, **options
        )
        self.exp_on_reg = exp_on_reg
        for convs in (self.cls_convs, self.reg_convs) if share_conv else ():
            for level in list(convs)[1:]:
                for layer, first in zip(level, convs[0], strict=True):
                    layer.conv = first.conv

    def sides(self, x: Tensor, level: int) -> Tensor:
        """The prediction [B, 4, h, w] of a level -> distances in strides."""
        return x.exp() if self.exp_on_reg else x
