"""YOLOXHead.

Letters: B images, C classes, S cells of all levels, P positive cells.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from cupola import nn
from cupola.models.boxes.distances import centers
from cupola.models.dense import AnchorHead, Candidates, DenseOutput, ImageSizes, suppress
from cupola.models.dense.anchor_head import Factors, Sizes, joined_levels
from cupola.models.dense.targets import (
    AnchorTargets,
    PaddedTargets,
    Targets,
    assigned_targets,
)
from cupola.models.layers import ConvModule
from cupola.models.layers.conv_module import DepthwiseSeparableConvModule
from cupola.registry import MODELS
from cupola.registry.budget import reserve
from cupola.structures import Detections
from cupola.structures.boxes import cxcywh_to_xyxy, xyxy_to_cxcywh

Config = Mapping[str, Any]
BATCH_NORM: Config = {"type": "BN", "momentum": 0.03, "eps": 0.001}
SWISH: Config = {"type": "Swish"}
BINARY: Config = {"type": "CrossEntropyLoss", "use_sigmoid": True, "reduction": "sum"}
BOXES: Config = {"type": "IoULoss", "mode": "square", "eps": 1e-16, "loss_weight": 5.0}
BACKGROUND = -4.59512  # the logit of a score of 0.01


class Match(NamedTuple):
    """What the cells of a batch should predict, the IoU of matched ones [B, S], boxes [B, S, 4]."""

    wanted: AnchorTargets
    metric: Tensor
    boxes: Tensor


@MODELS.register_module()
class YOLOXHead(AnchorHead):
    """Every level has its own layers; the third prediction is that of an object.

    A box is the shift of its center and the logs of its sides, in strides. `use_l1` adds an L1 loss
    of these, as in the last epochs. Source: mmdet/models/dense_heads/yolox_head.py.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        feat_channels: int = 256,
        stacked_convs: int = 2,
        strides: Sequence[int] = (8, 16, 32),
        use_depthwise: bool = False,
        dcn_on_last_conv: bool = False,
        conv_bias: bool | str = "auto",
        conv_cfg: Config | None = None,
        norm_cfg: Config | None = BATCH_NORM,
        act_cfg: Config | None = SWISH,
        loss_cls: Config = BINARY,
        loss_bbox: Config = BOXES,
        loss_obj: Config = BINARY,
        loss_l1: Config | None = None,
        **options: Any,
    ) -> None:
        super().__init__(
            num_classes,
            in_channels,
            feat_channels,
            anchor_generator={"type": "MlvlPointGenerator", "strides": strides, "offset": 0},
            loss_cls=summed(loss_cls),
            loss_bbox=summed(loss_bbox),
            **{"init_cfg": INITIAL, **options},
        )
        self.loss_obj = MODELS.build(summed(loss_obj))
        self.loss_l1 = MODELS.build(summed(loss_l1 or {"type": "L1Loss"}))
        self.use_l1 = False
        layer = DepthwiseSeparableConvModule if use_depthwise else ConvModule
        settings: dict[str, Any] = {"norm_cfg": norm_cfg, "act_cfg": act_cfg, "bias": conv_bias}

        def convs() -> nn.Sequential:
            reserve(stacked_convs)
            kinds = [conv_cfg] * stacked_convs
            if dcn_on_last_conv:
                kinds[-1] = {"type": "DCNv2"}
            return nn.Sequential(
                *(
                    layer(
                        feat_channels if i else in_channels,
                        feat_channels,
                        3,
                        padding=1,
                        conv_cfg=kind,
                        **settings,
                    )
                    for i, kind in enumerate(kinds)
                )
            )

        levels = range(len(self.anchors.strides))
        self.multi_level_cls_convs = nn.ModuleList(convs() for _ in levels)
        self.multi_level_reg_convs = nn.ModuleList(convs() for _ in levels)
        for name, width in (("cls", num_classes), ("reg", 4), ("obj", 1)):
            layers = nn.ModuleList(nn.Conv2d(feat_channels, width, 1) for _ in levels)
            self.add_module(f"multi_level_conv_{name}", layers)

    def init_weights(self) -> None:
        """Class and object scores begin at 0.01; `init_cfg` fills the rest."""
        for name in ("cls", "obj"):
            for layer in getattr(self, f"multi_level_conv_{name}"):
                nn.init.constant_(layer.bias, BACKGROUND)

    def forward(self, maps: Sequence[Tensor]) -> DenseOutput:
        """Feature maps [B, in_channels, h_i, w_i] -> DenseOutput; qualities: an object."""
        return self.read(self.towers(maps))

    def towers(self, maps: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """The features of each level for the class and for the box."""
        layers = zip(self.multi_level_cls_convs, self.multi_level_reg_convs, maps, strict=True)
        return [(for_class(x), for_box(x)) for for_class, for_box, x in layers]

    def read(self, towers: Sequence[tuple[Tensor, Tensor]]) -> DenseOutput:
        """The predictions of each level."""
        levels = []
        for i, (for_class, for_box) in enumerate(towers):
            parts = (("cls", for_class), ("reg", for_box), ("obj", for_box))
            levels.append(
                tuple(getattr(self, f"multi_level_conv_{name}")[i](each) for name, each in parts)
            )
        return DenseOutput(*zip(*levels, strict=True))

    def decode(
        self, anchors: Tensor, rows: Tensor, stride: int, size: tuple[int, int] | None = None
    ) -> Tensor:
        """Cells [..., 4], predictions [..., 4] -> boxes [..., 4], which are not clipped."""
        center = rows[..., :2] * stride + centers(anchors)
        return cxcywh_to_xyxy(torch.cat((center, rows[..., 2:].exp() * stride), -1))

    def predict(
        self, output: DenseOutput, sizes: Sizes, scale_factors: Factors
    ) -> list[Detections]:
        """Detections of every image: the best class of each cell of at least `score_thr`."""
        scores, boxes = self.scored_boxes(output)
        found = []
        for score, box, factor in zip(scores.float(), boxes.float(), scale_factors, strict=True):
            best, labels = score.max(-1)
            keep = best >= self.test_cfg.get("score_thr", 0)
            candidates = Candidates(box[keep], best[keep], labels[keep])
            found.append(suppress(candidates, self.test_cfg, factor))
        return found

    def loss(self, output: DenseOutput, targets: Targets, sizes: ImageSizes) -> dict[str, Tensor]:
        """loss_cls (towards the IoU), loss_bbox and loss_obj, and loss_l1 with `use_l1`."""
        objects = PaddedTargets.of(targets, output.boxes[0])
        return self.losses_towards(output, self.match(output, objects))

    def match(self, output: DenseOutput, objects: PaddedTargets) -> Match:
        """The objects of the cells."""
        anchors = torch.cat(self.anchors(output.logits))
        scores, boxes = self.scored_boxes(output)
        with torch.no_grad():
            owners, metric = self.assign(anchors, scores.sqrt(), boxes, objects)
        return Match(assigned_targets(anchors, owners, objects), metric, boxes)

    def losses_towards(self, output: DenseOutput, match: Match) -> dict[str, Tensor]:
        """The losses of `loss`."""
        logits, rows = self.joined(output)
        assert output.qualities is not None
        objectness = joined_levels(output.qualities, 1)[..., 0]  # [B, S]
        wanted, metric, boxes = match
        positive = wanted.positive
        total = self.average(positive.sum())
        losses = {"loss_obj": self.loss_obj(objectness, positive.to(rows), avg_factor=total)}
        if not len(wanted.labels):
            nothing = {"loss_cls": logits.sum() * 0, "loss_bbox": boxes.sum() * 0}
            return losses | nothing | ({"loss_l1": rows.sum() * 0} if self.use_l1 else {})
        goal = F.one_hot(wanted.labels, self.num_classes) * metric[positive][:, None]
        losses["loss_cls"] = self.loss_cls(logits[positive], goal, avg_factor=total)
        losses["loss_bbox"] = self.loss_bbox(boxes[positive], wanted.boxes, avg_factor=total)
        if self.use_l1:
            stride = wanted.anchors[:, 2:3] - wanted.anchors[:, 0:1]
            goals = xyxy_to_cxcywh(wanted.boxes)
            shift = (goals[:, :2] - centers(wanted.anchors)) / stride
            plain = torch.cat((shift, (goals[:, 2:] / stride + 1e-8).log()), -1)
            losses["loss_l1"] = self.loss_l1(rows[positive], plain, avg_factor=total)
        return losses

    def assign(
        self, anchors: Tensor, scores: Tensor, boxes: Tensor, objects: PaddedTargets
    ) -> tuple[Tensor, Tensor]:
        """What the assigner of `train_cfg` makes of cells, predictions and objects."""
        if self.assigner is None:
            raise ValueError("the model's train_cfg is missing: it names the assigner")
        stride = (anchors[:, 2:] - anchors[:, :2]) / 2
        cells = anchors + torch.cat((stride, stride), -1)  # around the centers of cells
        found: tuple[Tensor, Tensor] = self.assigner(cells, scores, boxes, objects)
        return found


INITIAL: Config = {
    "type": "Kaiming",
    "layer": "Conv2d",
    "a": 5**0.5,
    "distribution": "uniform",
    "mode": "fan_in",
    "nonlinearity": "leaky_relu",
}


def summed(cfg: Config) -> dict[str, Any]:
    """A loss whose sum is divided by the number of positive cells; ValueError for another one."""
    settings = dict(cfg)
    if (reduction := settings.pop("reduction", "sum")) != "sum":
        raise ValueError(f"the losses of YOLOX are sums; reduction is {reduction!r}")
    return settings
