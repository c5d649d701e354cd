"""StageCascadeRPNHead: one stage of proposals, and its convolution.

Letters: B images, S anchors of all levels, one a cell.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from cupola import nn
from cupola.models.boxes import IGNORED, PseudoSampler
from cupola.models.cascade_rpn.assigning import RegionAssigner
from cupola.models.constants import constant
from cupola.models.dense import ImageSizes, level_rows
from cupola.models.dense.targets import (
    AnchorTargets,
    PaddedTargets,
    Targets,
    anchor_targets,
    assigned_targets,
    usable_anchors,
)
from cupola.models.guided_anchoring.head import joined_targets
from cupola.models.layers.deform_conv import DeformConv2d
from cupola.models.rpn.head import RPNHead
from cupola.registry import MODELS

Config = Mapping[str, Any]
Size = tuple[int, int]
ANCHORS: Config = {
    "type": "AnchorGenerator",
    "scales": [8],
    "ratios": [1.0],
    "strides": [4, 8, 16, 32, 64],
}
DILATED: Config = {"type": "dilation", "dilation": 3}
CELLS_PER_LOSS = 200  # losses without sampling are divided by a 200th of the cells


class StageOutput(NamedTuple):
    """One tensor per level: logits [B, 1, h, w], deltas [B, 4, h, w], anchors [B, h * w, 4].

    Stages without classes have no logits. previous are the outputs of the stages before.
    """

    logits: tuple[Tensor, ...]
    boxes: tuple[Tensor, ...]
    anchors: tuple[Tensor, ...]
    previous: tuple[Any, ...] = ()
    qualities: None = None


class AdaptiveConv(nn.Module):
    """A 3x3 convolution: dilated, or with offsets that follow anchors.

    x [B, in_channels, h, w], offset [B, 18, h, w] or None -> [B, out_channels, h, w].
    """

    def __init__(self, in_channels: int, out_channels: int, cfg: Config) -> None:
        super().__init__()
        self.init_cfg = {"type": "Normal", "std": 0.01, "override": {"name": "conv"}}
        self.follows = cfg["type"] == "offset"
        if cfg["type"] not in ("offset", "dilation"):
            raise ValueError(f"adapt_cfg type is 'offset' or 'dilation', got {cfg['type']!r}")
        dilation = int(cfg.get("dilation", 3))
        self.conv: Any = (
            DeformConv2d(in_channels, out_channels, 3, padding=1)
            if self.follows
            else nn.Conv2d(in_channels, out_channels, 3, padding=dilation, dilation=dilation)
        )

    def forward(self, x: Tensor, offset: Tensor | None) -> Tensor:
        found: Tensor = self.conv(x) if offset is None else self.conv(x, offset)
        return found


@MODELS.register_module()
class StageCascadeRPNHead(RPNHead):
    """An RPNHead on anchors that the stage before has moved; one anchor a cell.

    With `bridged_feature` the next stage gets the features after the convolution. Stages without
    `with_cls` only move anchors. `sampling` False (of MMDetection 2.x) trains with all anchors.
    Source: mmdet/models/dense_heads/cascade_rpn_head.py.
    """

    def __init__(
        self,
        in_channels: int,
        anchor_generator: Config = ANCHORS,
        adapt_cfg: Config = DILATED,
        bridged_feature: bool = False,
        with_cls: bool = True,
        sampling: bool = True,
        init_cfg: Any = None,
        **settings: Any,
    ) -> None:
        names = [{"name": "rpn_reg"}, *([{"name": "rpn_cls"}] if with_cls else [])]
        initial = init_cfg or {"type": "Normal", "std": 0.01, "override": names}
        super().__init__(
            in_channels, anchor_generator=anchor_generator, init_cfg=initial, **settings
        )
        if set(self.anchors.counts) != {1}:
            raise ValueError("Cascade RPN has one anchor a cell: one of scales, and of ratios")
        self.scale = anchor_generator["scales"][0]
        self.bridged, self.with_cls = bridged_feature, with_cls
        self.rpn_conv: Any = AdaptiveConv(in_channels, self.feat_channels, adapt_cfg)
        if not with_cls:
            del self.rpn_cls
        if not sampling:
            self.sampler = PseudoSampler()

    def stage(self, maps: Sequence[Tensor], anchors: Sequence[Tensor]) -> tuple[list[Tensor], Any]:
        """Maps and anchors [B, h * w, 4] of every level -> maps for the next stage, StageOutput."""
        bridged, logits, deltas = [], [], []
        for x, each, (stride, _) in zip(maps, anchors, self.anchors.strides, strict=True):
            size = (int(x.shape[-2]), int(x.shape[-1]))
            offset = anchor_offsets(each, stride, size) if self.rpn_conv.follows else None
            features = F.relu(self.rpn_conv(x, offset))
            bridged.append(features if self.bridged else x)
            deltas.append(self.rpn_reg(features))
            if self.with_cls:
                logits.append(self.rpn_cls(features))
        return bridged, StageOutput(tuple(logits), tuple(deltas), tuple(anchors))

    def refined(self, output: StageOutput, sizes: Sequence[Size]) -> list[Tensor]:
        """The anchors [B, h * w, 4] for the next stage, within the images, without a gradient."""
        found = []
        for anchors, deltas in zip(output.anchors, output.boxes, strict=True):
            rows = level_rows(deltas, 4).detach()
            images = zip(anchors, rows, sizes, strict=True)
            found.append(torch.stack([self.bbox_coder.decode(*each) for each in images]))
        return found

    def image_anchors(self, output: Any, image: int) -> list[Tensor]:
        """The anchors [h * w, 4] of every level of an image."""
        return [each[image] for each in output.anchors]

    def loss(self, output: Any, targets: Targets, sizes: ImageSizes) -> dict[str, Tensor]:
        """loss_rpn_cls, where there are classes, and loss_rpn_reg."""
        wanted = self.wanted(output, targets, sizes)
        deltas = torch.cat([level_rows(each, 4) for each in output.boxes], 1)
        if self.with_cls:
            losses = self.losses_of(self.joined(output)[0], deltas, wanted)
            return {"loss_rpn_cls": losses["loss_cls"], "loss_rpn_reg": losses["loss_bbox"]}
        return {"loss_rpn_reg": self.box_loss(deltas, wanted)}

    def wanted(self, output: StageOutput, targets: Targets, sizes: ImageSizes) -> AnchorTargets:
        """What the anchors of every image should predict."""
        if self.assigner is None or self.sampler is None:
            raise ValueError("the model's train_cfg is missing: it names the assigner")
        anchors = torch.cat(output.anchors, 1)  # [B, S, 4]
        border = self.train_cfg.get("allowed_border", -1)
        shapes = [(int(each.shape[-2]), int(each.shape[-1])) for each in output.boxes]
        found = []
        for i, (own, target) in enumerate(zip(anchors, targets, strict=True)):
            size = ImageSizes(sizes.content[i : i + 1], sizes.padded[i : i + 1])
            usable = usable_anchors(self.anchors, output.boxes, own, size, border)
            target = {**target, "labels": torch.zeros_like(target["labels"])}
            if isinstance(self.assigner, RegionAssigner):
                strides = [x for x, _ in self.anchors.strides]
                owners = self.assigner(target["boxes"].to(own), shapes, strides, self.scale)
                owners = torch.where(usable[0], owners, IGNORED)[None]
                found.append(assigned_targets(own, owners, PaddedTargets.of([target], own)))
            else:
                counts = [h * w for h, w in shapes]
                more = (counts, [target], self.assigner, self.sampler)
                found.append(anchor_targets(own, usable, *more))
        wanted = joined_targets(found)
        if not self.sampler.counts_negative:
            wanted = replace(wanted, average=wanted.positive.numel() / CELLS_PER_LOSS)
        return wanted


def anchor_offsets(anchors: Tensor, stride: float, shape: Size) -> Tensor:
    """Anchors [B, h * w, 4] of a level -> offsets (y, x) of 3x3 convolutions, [B, 18, h, w].

    The nine points are spread evenly over the anchor.
    """
    height, width = shape
    center = (anchors[..., :2] + anchors[..., 2:]) * 0.5 / stride  # [B, h * w, 2]
    cell = torch.arange(height * width, device=anchors.device)
    home = torch.stack((cell % width, cell // width), -1).to(anchors)
    spread = (anchors[..., 2:] - anchors[..., :2]) / stride / 2 - 1
    steps = constant((-1.0, 0.0, 1.0), anchors, anchors.dtype)
    down, across = (each.flatten() for each in torch.meshgrid(steps, steps, indexing="ij"))
    moved = center - home
    x = moved[..., :1] + spread[..., :1] * across  # [B, h * w, 9]
    y = moved[..., 1:] + spread[..., 1:] * down
    offsets = torch.stack((y, x), -1).flatten(2)  # [B, h * w, 18]
    return offsets.transpose(1, 2).reshape(len(anchors), 18, height, width)
