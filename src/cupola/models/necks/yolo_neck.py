"""The neck of YOLOv3 (arXiv 1804.02767): blocks of five convolutions from coarse to fine."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cupola import nn
from cupola.models.backbones.darknet import BATCH_NORM, LEAKY
from cupola.models.layers import ConvModule
from cupola.registry import MODELS

Config = Mapping[str, Any]


class DetectionBlock(nn.Module):
    """x [B, in_channels, H, W] -> [B, C, H, W]: five convolutions, of 1x1 and 3x3 in turns."""

    def __init__(self, in_channels: int, channels: int, **cfgs: Any) -> None:
        super().__init__()
        self.conv1 = ConvModule(in_channels, channels, 1, **cfgs)
        self.conv2 = ConvModule(channels, 2 * channels, 3, padding=1, **cfgs)
        self.conv3 = ConvModule(2 * channels, channels, 1, **cfgs)
        self.conv4 = ConvModule(channels, 2 * channels, 3, padding=1, **cfgs)
        self.conv5 = ConvModule(2 * channels, channels, 1, **cfgs)

    def forward(self, x: Tensor) -> Tensor:
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4, self.conv5):
            x = conv(x)
        return x


@MODELS.register_module()
class YOLOV3Neck(nn.Module):
    """Maps of the backbone, finest first -> a map of each, coarsest first.

    `in_channels` and `out_channels` are coarsest first, too.
    Source: mmdet/models/necks/yolo_neck.py.
    """

    def __init__(
        self,
        num_scales: int,
        in_channels: Sequence[int],
        out_channels: Sequence[int],
        conv_cfg: Config | None = None,
        norm_cfg: Config = BATCH_NORM,
        act_cfg: Config = LEAKY,
        init_cfg: Any = None,
    ) -> None:
        super().__init__()
        if not num_scales == len(in_channels) == len(out_channels):
            raise ValueError(
                f"YOLOV3Neck: {num_scales} scales, but {len(in_channels)} in_channels and "
                f"{len(out_channels)} out_channels"
            )
        self.init_cfg = init_cfg
        self.scales = num_scales
        cfgs: dict[str, Any] = {"conv_cfg": conv_cfg, "norm_cfg": norm_cfg, "act_cfg": act_cfg}
        self.detect1 = DetectionBlock(in_channels[0], out_channels[0], **cfgs)
        for i in range(1, num_scales):
            cin, cout = in_channels[i], out_channels[i]
            self.add_module(f"conv{i}", ConvModule(out_channels[i - 1], cout, 1, **cfgs))
            self.add_module(f"detect{i + 1}", DetectionBlock(cin + cout, cout, **cfgs))

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        if len(inputs) != self.scales:
            raise ValueError(f"YOLOV3Neck expects {self.scales} inputs, got {len(inputs)}")
        outs = [self.detect1(inputs[-1])]
        for i in range(1, self.scales):
            coarse = F.interpolate(getattr(self, f"conv{i}")(outs[-1]), scale_factor=2)
            merged = torch.cat((coarse, inputs[-1 - i]), 1)
            outs.append(getattr(self, f"detect{i + 1}")(merged))
        return tuple(outs)
