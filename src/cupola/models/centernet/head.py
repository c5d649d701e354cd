"""CenterNet and its head.

Letters: B images, C classes, (h, w) the feature map, S = h * w.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cupola import nn
from cupola.models.centernet.heatmaps import draw_gaussian, gaussian_radius, local_maxima
from cupola.models.dense import ImageSizes, SingleStageDetector
from cupola.registry import MODELS
from cupola.structures import Detections

Config = Mapping[str, Any]
Targets = Sequence[Mapping[str, Tensor]]
Size = tuple[int, int]

HEATMAP: Config = {"type": "GaussianFocalLoss", "loss_weight": 1.0}
SIZE: Config = {"type": "L1Loss", "loss_weight": 0.1}
OFFSET: Config = {"type": "L1Loss", "loss_weight": 1.0}
LEAST_OVERLAP = 0.3  # of a box whose corners lie within the radius of a peak
BACKGROUND = -2.19722  # the logit of a score of 0.1


class CenterNetOutput(NamedTuple):
    """Of one level heatmaps [B, C, h, w], scores 0..1; sizes and offsets [B, 2, h, w] in cells.

    stride: (x, y), pixels of a cell.
    """

    heatmaps: tuple[Tensor, ...]
    sizes: tuple[Tensor, ...]
    offsets: tuple[Tensor, ...]
    stride: tuple[float, float] = (4.0, 4.0)


@MODELS.register_module()
class CenterNet(SingleStageDetector):
    """Source: mmdet/models/detectors/centernet.py."""

    def forward(self, pixels: Tensor, padding_mask: Tensor | None = None) -> Any:
        """pixels [B, 3, H, W] -> the head's output."""
        output = super().forward(pixels)
        if isinstance(output, CenterNetOutput):
            height, width = output.heatmaps[0].shape[-2:]
            stride = (pixels.shape[-1] / width, pixels.shape[-2] / height)
            output = output._replace(stride=stride)
        return output


@MODELS.register_module()
class CenterNetHead(nn.Module):
    """Three stacks of two convolutions: heatmaps of centers, sizes of boxes, and offsets.

    `in_channel` and `feat_channel` are the spelling of MMDetection 2.x.
    Source: mmdet/models/dense_heads/centernet_head.py.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 64,
        feat_channels: int = 64,
        in_channel: int | None = None,
        feat_channel: int | None = None,
        loss_center_heatmap: Config = HEATMAP,
        loss_wh: Config = SIZE,
        loss_offset: Config = OFFSET,
        train_cfg: Config | None = None,
        test_cfg: Config | None = None,
        init_cfg: Any = None,
    ) -> None:
        super().__init__()
        self.init_cfg, self.num_classes = init_cfg, num_classes
        in_channels, feat_channels = in_channel or in_channels, feat_channel or feat_channels

        def stack(channels: int) -> nn.Sequential:
            return nn.Sequential(
                nn.Conv2d(in_channels, feat_channels, 3, padding=1),
                nn.ReLU(inplace=True),
                nn.Conv2d(feat_channels, channels, 1),
            )

        self.heatmap_head, self.wh_head, self.offset_head = stack(num_classes), stack(2), stack(2)
        self.loss_center_heatmap = MODELS.build(loss_center_heatmap)
        self.loss_wh, self.loss_offset = MODELS.build(loss_wh), MODELS.build(loss_offset)
        self.test_cfg = dict(test_cfg or {})

    def init_weights(self) -> None:
        """Scores begin at 0.1; sizes and offsets near 0."""
        last: Any = list(self.heatmap_head)[-1]
        nn.init.constant_(last.bias, BACKGROUND)
        for part in (self.wh_head, self.offset_head):
            for layer in part:
                if isinstance(layer, nn.Conv2d):
                    nn.init.normal_(layer.weight, std=0.001)
                    if layer.bias is not None:
                        nn.init.zeros_(layer.bias)

    def forward(self, maps: Sequence[Tensor]) -> CenterNetOutput:
        """One feature map [B, in_channels, h, w] -> CenterNetOutput."""
        if len(maps) != 1:
            raise ValueError(f"CenterNetHead takes one feature map, got {len(maps)}")
        x = maps[0]
        heatmaps = self.heatmap_head(x).sigmoid()
        return CenterNetOutput((heatmaps,), (self.wh_head(x),), (self.offset_head(x),))

    def scored_boxes(self, output: CenterNetOutput) -> tuple[Tensor, Tensor]:
        """Scores [B, S, C], 0 beside peaks, and boxes [B, S, 4], xyxy in pixels, of all cells."""
        kernel = self.test_cfg.get("local_maximum_kernel", 3)
        scores = local_maxima(output.heatmaps[0].float(), kernel).flatten(2).transpose(1, 2)
        size, offset = output.sizes[0].float(), output.offsets[0].float()
        height, width = size.shape[-2:]
        x = torch.arange(width, device=size.device) + offset[:, 0]  # [B, h, w]
        y = torch.arange(height, device=size.device)[:, None] + offset[:, 1]
        half = size / 2
        (across, down), (wide, high) = output.stride, (half[:, 0], half[:, 1])
        sides = ((x - wide) * across, (y - high) * down, (x + wide) * across, (y + high) * down)
        return scores, torch.stack(sides, -1).flatten(1, 2)

    def predict(
        self, output: CenterNetOutput, sizes: Sequence[Size], scale_factors: Sequence[Any]
    ) -> list[Detections]:
        """The `topk` best peaks of every image; boxes may leave the image."""
        scores, boxes = self.scored_boxes(output)
        flat = scores.transpose(1, 2).flatten(1)  # [B, C * S], class by class
        best, index = flat.topk(min(self.test_cfg.get("topk", 100), flat.shape[1]))
        count, found = scores.shape[1], []
        for score, place, box, factor in zip(best, index, boxes, scale_factors, strict=True):
            box = box[place % count]
            if factor is not None:
                box = box / box.new_tensor([*factor[:2], *factor[:2]])
            found.append(Detections(box, score, place // count))
        return found

    def loss(
        self, output: CenterNetOutput, targets: Targets, sizes: ImageSizes
    ) -> dict[str, Tensor]:
        """loss_center_heatmap, and at the centers loss_wh and loss_offset."""
        heatmaps = torch.zeros_like(output.heatmaps[0])
        goal = torch.zeros_like(output.sizes[0]).repeat(1, 2, 1, 1)  # [B, 4, h, w]
        weight = torch.zeros_like(output.sizes[0][:, :1])
        height, width = heatmaps.shape[-2:]
        for i, target in enumerate(targets):
            x, y = output.stride
            boxes = target["boxes"].float() / target["boxes"].new_tensor([x, y, x, y]).float()
            middle, sides = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
            for label, center, side in zip(target["labels"], middle, sides, strict=True):
                column = min(max(int(center[0]), 0), width - 1)
                row = min(max(int(center[1]), 0), height - 1)
                radius = gaussian_radius(float(side[1]), float(side[0]), LEAST_OVERLAP)
                draw_gaussian(heatmaps[i, label], column, row, max(0, int(radius)))
                offset = center - center.new_tensor([column, row])
                goal[i, :, row, column] = torch.cat((side, offset)).to(goal)
                weight[i, :, row, column] = 1
        average = max(1, int((heatmaps == 1).sum()))
        return {
            "loss_center_heatmap": self.loss_center_heatmap(
                output.heatmaps[0], heatmaps, avg_factor=average
            ),
            "loss_wh": self.loss_wh(output.sizes[0], goal[:, :2], weight, avg_factor=2 * average),
            "loss_offset": self.loss_offset(
                output.offsets[0], goal[:, 2:], weight, avg_factor=2 * average
            ),
        }
