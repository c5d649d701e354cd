"""FCOSHead: what the cells of every level predict, and its losses.

Letters: B images, C classes, S cells of all levels, P positive cells.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from cupola import nn
from cupola.models.boxes.distances import boxes_around, centerness
from cupola.models.dense import (
    Candidates,
    ImageSizes,
    grid_points,
    level_rows,
    suppress,
)
from cupola.models.dense.anchor_head import joined_levels
from cupola.models.dense.stacks import apply, stack
from cupola.models.fcos.output import FCOSOutput, image_candidates
from cupola.models.fcos.targets import FAR, FCOSTargets, cells_of, owners
from cupola.models.layers.normed import NormedConv2d
from cupola.models.layers.scale import Scale
from cupola.parallel import SINGLE, Group, mean_over_ranks
from cupola.registry import MODELS
from cupola.structures import Detections

Config = Mapping[str, Any]
Size = tuple[int, int]
Factors = Sequence[Sequence[float] | None]
Targets = Sequence[Mapping[str, Tensor]]

RANGES = ((-1, 64), (64, 128), (128, 256), (256, 512), (512, FAR))
GROUP_NORM: Config = {"type": "GN", "num_groups": 32, "requires_grad": True}
INITIAL: Config = {
    "type": "Normal",
    "layer": "Conv2d",
    "std": 0.01,
    "override": {"type": "Normal", "name": "conv_cls", "std": 0.01, "bias_prob": 0.01},
}


@MODELS.register_module()
class FCOSHead(nn.Module):
    """The same two stacks of convolutions on every level: one for classes, one for boxes.

    `center_sampling` trains only cells near an object's center; `norm_on_bbox` learns distances in
    strides; `centerness_on_reg` predicts the centerness from the boxes' stack. `cls_predictor_cfg`
    makes the classes' last layer a NormedConv2d, of 1x1, with these settings.
    Source: mmdet/models/dense_heads/{anchor_free_head,fcos_head}.py.
    """

    offset = 0.5  # of a cell's point, in strides

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        feat_channels: int = 256,
        stacked_convs: int = 4,
        strides: Sequence[int] = (4, 8, 16, 32, 64),
        regress_ranges: Sequence[Sequence[float]] = RANGES,
        center_sampling: bool = False,
        center_sample_radius: float = 1.5,
        norm_on_bbox: bool = False,
        centerness_on_reg: bool = False,
        dcn_on_last_conv: bool = False,
        conv_bias: bool | str = "auto",
        loss_cls: Config | None = None,
        loss_bbox: Config | None = None,
        loss_centerness: Config | None = None,
        bbox_coder: Config | None = None,
        conv_cfg: Config | None = None,
        norm_cfg: Config | None = GROUP_NORM,
        cls_predictor_cfg: Config | None = None,
        train_cfg: Config | None = None,
        test_cfg: Config | None = None,
        init_cfg: Any = INITIAL,
    ) -> None:
        super().__init__()
        self.init_cfg = init_cfg
        self.num_classes, self.feat_channels = num_classes, feat_channels
        self.strides, self.ranges = tuple(strides), tuple(regress_ranges)
        self.radius = center_sample_radius if center_sampling else None
        self.norm_on_bbox, self.centerness_on_reg = norm_on_bbox, centerness_on_reg
        self.clip = _clips(bbox_coder)
        self.test_cfg = dict(test_cfg or {})
        self.data_group: Group = SINGLE  # set by the trainer: the ranks that read other data
        self.loss_cls = MODELS.build(loss_cls or {"type": "FocalLoss", "use_sigmoid": True})
        if not self.loss_cls.use_sigmoid:
            raise ValueError("FCOS scores classes by sigmoid; set use_sigmoid=True in loss_cls")
        self.loss_bbox = MODELS.build(loss_bbox or {"type": "IoULoss"})
        self.loss_centerness = MODELS.build(
            loss_centerness or {"type": "CrossEntropyLoss", "use_sigmoid": True}
        )

        settings: dict[str, Any] = {"conv_cfg": conv_cfg, "norm_cfg": norm_cfg, "bias": conv_bias}
        if dcn_on_last_conv:
            settings["last_conv_cfg"] = {"type": "DCNv2"}
        widths = (stacked_convs, in_channels, feat_channels)
        self.cls_convs, self.reg_convs = stack(*widths, **settings), stack(*widths, **settings)
        self.conv_cls = _classifier(cls_predictor_cfg, feat_channels, num_classes)
        self.conv_reg = nn.Conv2d(feat_channels, 4, 3, padding=1)
        self.conv_centerness = nn.Conv2d(feat_channels, 1, 3, padding=1)
        self.scales = nn.ModuleList(Scale() for _ in self.strides)

    def forward(self, maps: Sequence[Tensor]) -> Any:
        """Feature maps [B, C, h_i, w_i] -> FCOSOutput."""
        return FCOSOutput(*self.levels(maps))

    def levels(self, maps: Sequence[Tensor]) -> list[tuple[Tensor, ...]]:
        """Feature maps -> each of the outputs, level by level."""
        found = []
        for x, scale, stride in zip(maps, self.scales, self.strides, strict=True):
            for_class, for_box = apply(self.cls_convs, x), apply(self.reg_convs, x)
            found.append(self.predictions(for_class, for_box, scale, stride))
        return list(zip(*found, strict=True))

    def predictions(
        self, for_class: Tensor, for_box: Tensor, scale: nn.Module, stride: int
    ) -> tuple[Tensor, ...]:
        """Features of a level -> logits, distances and centerness."""
        sides = scale(self.conv_reg(for_box))
        sides = sides.to(torch.promote_types(sides.dtype, torch.float32))
        if self.norm_on_bbox:
            sides = sides.clamp(min=0)
            sides = sides if self.training else sides * stride
        else:
            sides = sides.exp()
        central = self.conv_centerness(for_box if self.centerness_on_reg else for_class)
        return self.conv_cls(for_class), sides, central

    def scored_boxes(self, output: FCOSOutput) -> tuple[Tensor, Tensor]:
        """Scores [B, S, C], weighted by the centerness, and boxes [B, S, 4], xyxy in pixels."""
        points = torch.cat(grid_points(output.logits, self.strides, self.offset))
        logits, sides, central = self.joined(output)[:3]
        return logits.sigmoid() * central.sigmoid(), boxes_around(points, sides)

    def predict(
        self, output: FCOSOutput, sizes: Sequence[Size], scale_factors: Factors
    ) -> list[Detections]:
        """Detections of every image whose (height, width) without padding are `sizes`."""
        return self.propose(output, sizes, self.test_cfg, scale_factors)

    def propose(
        self, output: FCOSOutput, sizes: Sequence[Size], cfg: Config, factors: Factors | None = None
    ) -> list[Detections]:
        """Detections, best first, by another test_cfg, as where the head takes an RPN's place."""
        factors = factors or [None] * len(sizes)
        found = self.candidates(output, sizes, cfg)
        return [suppress(each, cfg, factors[i]) for i, each, _ in found]

    def candidates(
        self, output: Any, sizes: Sequence[Size], cfg: Config
    ) -> Iterator[tuple[int, Candidates, Tensor]]:
        """The index of every image, its candidates, and the cells that they are of."""
        points = grid_points(output.logits, self.strides, self.offset)
        parts = [
            [level_rows(level, level.shape[1]).float() for level in levels] for levels in output[:3]
        ]
        for i, size in enumerate(sizes):
            logits, sides, central = ([level[i] for level in levels] for levels in parts)
            clipped = size if self.clip else None
            yield i, *image_candidates(points, clipped, cfg, logits, sides, central)

    def joined(self, output: Any) -> tuple[Tensor, ...]:
        """Each of the output's parts for the cells of all levels, [B, S, ...]."""
        return tuple(joined_levels(levels, levels[0].shape[1]) for levels in output)

    def loss(self, output: FCOSOutput, targets: Targets, sizes: ImageSizes) -> dict[str, Tensor]:
        """loss_cls, loss_bbox (weighted by the centerness) and loss_centerness.

        `targets` hold boxes [N, 4], xyxy in pixels, and labels [N].
        """
        return self.losses_of(output, self.targets(output, targets))

    def targets(self, output: Any, targets: Targets) -> FCOSTargets:
        """What the cells of a batch should predict."""
        points = grid_points(output.logits, self.strides, self.offset)
        every = cells_of(points, self.strides, self.ranges)
        found, labels = [], []
        for each in targets:
            owner, sides = owners(
                every, each["boxes"].to(points[0]), self.radius, self.centers(each)
            )
            label = torch.full_like(owner, self.num_classes)
            label[owner >= 0] = each["labels"][owner[owner >= 0]]
            labels.append(label)
            found.append((owner, sides))
        owner, sides = (torch.stack(each) for each in zip(*found, strict=True))
        if self.norm_on_bbox:
            sides = sides / every.strides[:, None]
        return FCOSTargets(every, torch.stack(labels), sides, owner)

    def centers(self, target: Mapping[str, Tensor]) -> Tensor | None:
        """The centers [N, 2] near which cells train; None: those of the boxes."""
        return None

    def losses_of(self, output: Any, targets: FCOSTargets) -> dict[str, Tensor]:
        """loss_cls, loss_bbox and loss_centerness."""
        labels, wanted = targets.labels, targets.sides
        logits, sides, central = self.joined(output)[:3]
        positive = labels < self.num_classes  # [B, S]
        count = self._average(positive.sum().float(), 1.0)
        weights = centerness(wanted[positive])  # [P]
        around = targets.cells.points.expand(len(labels), -1, -1)[positive]  # [P, 2]
        losses = {
            "loss_cls": self.loss_cls(logits.flatten(0, 1), labels.flatten(), avg_factor=count)
        }
        if hasattr(self.loss_cls, "accuracy"):
            losses |= self.loss_cls.accuracy(logits.flatten(0, 1), labels.flatten())
        if not positive.any():
            nothing = {"loss_bbox": sides[positive].sum(), "loss_centerness": central.sum() * 0}
            self._average(weights.sum(), 1e-6)  # other ranks wait for it
            return losses | nothing
        losses["loss_bbox"] = self.loss_bbox(
            boxes_around(around, sides[positive]),
            boxes_around(around, wanted[positive]),
            weight=weights,
            avg_factor=self._average(weights.sum(), 1e-6),
        )
        losses["loss_centerness"] = self.loss_centerness(
            central[positive][:, 0], weights, avg_factor=count
        )
        return losses

    def _average(self, value: Tensor, least: float) -> float:
        return max(float(mean_over_ranks(value.detach(), self.data_group)), least)


def _clips(bbox_coder: Config | None) -> bool:
    """Whether boxes are clipped to the image."""
    settings = dict(bbox_coder or {"type": "DistancePointBBoxCoder"})
    if str(settings["type"]).rpartition(".")[2] != "DistancePointBBoxCoder":
        raise ValueError(f"FCOS's bbox_coder is DistancePointBBoxCoder, got {settings['type']!r}")
    return bool(settings.get("clip_border", True))


def _classifier(cfg: Config | None, channels: int, num_classes: int) -> nn.Conv2d:
    """The layer of the classes; the original's configs name a NormedConv2d NormedLinear."""
    if cfg is None:
        return nn.Conv2d(channels, num_classes, 3, padding=1)
    settings = dict(cfg)
    if settings.pop("type") not in ("NormedLinear", "NormedConv2d"):
        raise ValueError(f"FCOS's cls_predictor_cfg is a NormedLinear, got {cfg['type']!r}")
    return NormedConv2d(channels, num_classes, 1, **settings)
