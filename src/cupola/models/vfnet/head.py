"""VFNet and its head.

Letters: B images, C classes, S cells of all levels, P positive cells.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cupola import nn
from cupola.models.boxes.distances import centers
from cupola.models.dense import AnchorHead, DenseOutput, ImageSizes, SingleStageDetector
from cupola.models.dense.anchor_head import joined_levels
from cupola.models.dense.stacks import GROUP_NORM, apply, initial, stack
from cupola.models.dense.targets import Targets
from cupola.models.layers import ConvModule, DeformConv2d
from cupola.models.layers.scale import Scale
from cupola.registry import MODELS
from cupola.structures.boxes import iou

Config = Mapping[str, Any]
RANGES = ((-1, 64), (64, 128), (128, 256), (256, 512), (512, 1e8))
ANCHORS: Config = {
    "type": "AnchorGenerator",
    "ratios": [1.0],
    "octave_base_scale": 8,
    "scales_per_octave": 1,
    "center_offset": 0.0,
    "strides": [8, 16, 32, 64, 128],
}
# Of the nine points of the star, (y, x) each: the side that moves it, or None, and which way.
STAR = ((1, 0), (1, None), (1, 2), (None, 0), (None, None), (None, 2), (3, 0), (3, None), (3, 2))


@MODELS.register_module()
class VFNet(SingleStageDetector):
    """Source: mmdet/models/detectors/vfnet.py."""


@MODELS.register_module()
class VFNetHead(AnchorHead):
    """Distances in pixels; deformable convolutions look at the box, and refine it and the score.

    Cells are chosen as in ATSS. Source: mmdet/models/dense_heads/vfnet_head.py.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        regress_ranges: Sequence[Sequence[float]] = RANGES,
        center_sampling: bool = False,
        center_sample_radius: float = 1.5,
        sync_num_pos: bool = True,
        gradient_mul: float = 0.1,
        bbox_norm_type: str = "reg_denom",
        loss_cls_fl: Config | None = None,
        use_vfl: bool = True,
        loss_cls: Config | None = None,
        loss_bbox: Config | None = None,
        loss_bbox_refine: Config | None = None,
        norm_cfg: Config | None = GROUP_NORM,
        use_atss: bool = True,
        reg_decoded_bbox: bool = True,
        anchor_generator: Config = ANCHORS,
        stacked_convs: int = 4,
        strides: Sequence[int] = (8, 16, 32, 64, 128),
        dcn_on_last_conv: bool = False,
        conv_bias: bool | str = "auto",
        conv_cfg: Config | None = None,
        bbox_coder: Config | None = None,
        init_cfg: Any = None,
        **options: Any,
    ) -> None:
        if not use_atss or not use_vfl or center_sampling:
            raise ValueError("VFNetHead is supported with use_atss and use_vfl, as published")
        if bbox_norm_type not in ("reg_denom", "stride"):
            raise ValueError(f"bbox_norm_type is 'reg_denom' or 'stride', got {bbox_norm_type!r}")
        super().__init__(
            num_classes,
            in_channels,
            anchor_generator=anchor_generator,
            bbox_coder=bbox_coder or {"type": "DistancePointBBoxCoder"},
            loss_cls=loss_cls or {"type": "VarifocalLoss"},
            loss_bbox=loss_bbox or {"type": "GIoULoss", "loss_weight": 1.5},
            init_cfg=init_cfg or initial("vfnet_cls"),
            **options,
        )
        self.loss_bbox_refine = MODELS.build(
            loss_bbox_refine or {"type": "GIoULoss", "loss_weight": 2.0}
        )
        self.gradient_mul = gradient_mul
        ends = [each[-1] for each in regress_ranges]
        ends[-1] = ends[-2] * 2
        steps = [each[0] for each in self.anchors.strides]
        self.units = ends if bbox_norm_type == "reg_denom" else steps
        channels = self.feat_channels
        settings = (stacked_convs, in_channels, channels, conv_cfg, norm_cfg)
        last: Config | None = {"type": "DCNv2"} if dcn_on_last_conv else None
        self.cls_convs, self.reg_convs = (stack(*settings, last, bias=conv_bias) for _ in range(2))
        self.vfnet_reg_conv = ConvModule(
            channels, channels, 3, padding=1, conv_cfg=conv_cfg, norm_cfg=norm_cfg, bias=conv_bias
        )
        self.vfnet_reg = nn.Conv2d(channels, 4, 3, padding=1)
        self.scales = nn.ModuleList(Scale() for _ in steps)
        self.vfnet_reg_refine_dconv = DeformConv2d(channels, channels, 3, 1, padding=1)
        self.vfnet_reg_refine = nn.Conv2d(channels, 4, 3, padding=1)
        self.scales_refine = nn.ModuleList(Scale() for _ in steps)
        self.vfnet_cls_dconv = DeformConv2d(channels, channels, 3, 1, padding=1)
        self.vfnet_cls = nn.Conv2d(channels, self.cls_channels, 3, padding=1)

    def forward(self, maps: Sequence[Tensor]) -> DenseOutput:
        """Feature maps [B, in_channels, h_i, w_i] -> DenseOutput; boxes are distances."""
        levels = []
        for i, x in enumerate(maps):
            for_class, for_box = apply(self.cls_convs, x), apply(self.reg_convs, x)
            first = self.scales[i](self.vfnet_reg(self.vfnet_reg_conv(for_box)))
            first = first.float().exp() * self.units[i]
            offset = star_offset(first, self.gradient_mul, self.anchors.strides[i][0])
            offset = offset.to(for_box.dtype)
            for_box = F.relu(self.vfnet_reg_refine_dconv(for_box, offset))
            refined = self.scales_refine[i](self.vfnet_reg_refine(for_box)).float().exp()
            for_class = F.relu(self.vfnet_cls_dconv(for_class, offset))
            levels.append((self.vfnet_cls(for_class), refined * first.detach(), first))
        logits, boxes, initial = zip(*levels, strict=True)
        return DenseOutput(logits, boxes, initial=initial)

    def decode(
        self, anchors: Tensor, rows: Tensor, stride: int, size: tuple[int, int] | None = None
    ) -> Tensor:
        """Anchors [..., 4], distances [..., 4] -> boxes [..., 4]."""
        found: Tensor = self.bbox_coder.decode(centers(anchors), rows, size)
        return found

    def loss(self, output: DenseOutput, targets: Targets, sizes: ImageSizes) -> dict[str, Tensor]:
        """loss_cls (towards the refined box's IoU), loss_bbox and loss_bbox_rf."""
        wanted = self.targets(output, targets, sizes)
        positive = wanted.positive
        logits, refined = self.joined(output)
        assert output.initial is not None
        first = joined_levels(output.initial, 4)
        points = centers(wanted.anchors)
        found = {
            "loss_bbox": (self.loss_bbox, self.bbox_coder.decode(points, first[positive])),
            "loss_bbox_rf": (
                self.loss_bbox_refine,
                self.bbox_coder.decode(points, refined[positive]),
            ),
        }
        goal = torch.zeros_like(logits)
        losses = {}
        for name, (loss, boxes) in found.items():
            quality = iou(boxes, wanted.boxes).clamp(min=1e-6).detach()
            total = self.average(quality.sum())
            if len(boxes):
                losses[name] = loss(boxes, wanted.boxes, weight=quality, avg_factor=total)
            else:
                losses[name] = first.sum() * 0 + refined.sum() * 0
        image, cell = positive.nonzero(as_tuple=True)
        goal[image, cell, wanted.labels] = quality.to(goal.dtype)
        count = self.average(float(positive.sum()))
        loss_cls = self.loss_cls(logits.flatten(0, 1), goal.flatten(0, 1), avg_factor=count)
        return {"loss_cls": loss_cls, **losses}


def star_offset(sides: Tensor, gradient: float, stride: int) -> Tensor:
    """Distances [B, 4, h, w] in pixels -> offsets [B, 18, h, w] of a 3x3 deformable convolution.

    The nine points are the center, the corners and the middles of the sides of the box. `gradient`
    is the part of the gradient that reaches the distances.
    """
    sides = ((1 - gradient) * sides.detach() + gradient * sides) / stride
    zero = torch.zeros_like(sides[:, 0])
    moves = []
    for index, (vertical, horizontal) in enumerate(STAR):
        for side, place in ((vertical, index // 3 - 1), (horizontal, index % 3 - 1)):
            value = zero if side is None else sides[:, side] * (-1.0 if side < 2 else 1.0)
            moves.append(value - place)
    return torch.stack(moves, 1)
