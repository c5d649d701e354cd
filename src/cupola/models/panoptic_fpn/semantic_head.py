"""PanopticFPNHead: the class of every pixel, all things being one class.

Letters: B images, C classes of stuff and one for things, (h, w) the finest level.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cupola import nn
from cupola.models.dense.stacks import GROUP_NORM
from cupola.models.layers import ConvModule
from cupola.registry import MODELS
from cupola.registry.budget import reserve

Config = Mapping[str, Any]
LOSS: Config = {"type": "CrossEntropyLoss", "ignore_index": -1, "loss_weight": 1.0}
VOID = 255  # the label of pixels without a class


@MODELS.register_module()
class PanopticFPNHead(nn.Module):
    """The levels from `start_level` up to `end_level`, upsampled to the finest one and summed.

    Source: section 3.1 of the paper; mmdet/models/seg_heads/panoptic_fpn_head.py.
    """

    def __init__(
        self,
        num_things_classes: int = 80,
        num_stuff_classes: int = 53,
        in_channels: int = 256,
        inner_channels: int = 128,
        start_level: int = 0,
        end_level: int = 4,
        conv_cfg: Config | None = None,
        norm_cfg: Config | None = GROUP_NORM,
        loss_seg: Config = LOSS,
        init_cfg: Any = None,
    ) -> None:
        super().__init__()
        self.init_cfg = init_cfg
        self.num_things, self.num_stuff = num_things_classes, num_stuff_classes
        self.levels = range(start_level, end_level)
        self.scale = 1 / 2 ** (start_level + 2)  # of the finest level to the image
        self.loss_seg = MODELS.build(loss_seg)
        norms: dict[str, Any] = {"conv_cfg": conv_cfg, "norm_cfg": norm_cfg}
        reserve(len(self.levels))
        self.conv_upsample_layers = nn.ModuleList(
            ConvUpsample(in_channels, inner_channels, level, **norms) for level in self.levels
        )
        self.conv_logits = nn.Conv2d(inner_channels, num_stuff_classes + 1, 1)

    def init_weights(self) -> None:
        """Normal initialization of the last layer."""
        nn.init.normal_(self.conv_logits.weight, std=0.01)
        if self.conv_logits.bias is not None:
            nn.init.zeros_(self.conv_logits.bias)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Feature maps [B, in_channels, h_i, w_i] -> logits [B, C, h, w]; things are the last."""
        layers = zip(self.levels, self.conv_upsample_layers, strict=True)
        found = [layer(maps[level]) for level, layer in layers]
        logits: Tensor = self.conv_logits(torch.stack(found).sum(0))
        return logits

    def loss(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """loss_seg; labels [B, H, W] are things, then stuff, and VOID."""
        small = F.interpolate(labels[:, None].float(), scale_factor=self.scale, mode="nearest")
        goal = self.merged(small[:, 0].long())  # [B, h, w]
        if logits.shape[-2:] != goal.shape[-2:]:
            size = (goal.shape[-2], goal.shape[-1])
            logits = F.interpolate(logits, size=size, mode="bilinear", align_corners=False)
        rows = logits.permute(0, 2, 3, 1).flatten(0, 2)  # [B * h * w, C]
        return {"loss_seg": self.loss_seg(rows, goal.flatten())}

    def merged(self, labels: Tensor) -> Tensor:
        """Labels with stuff from 0 on, and all things as the class after it."""
        stuff = labels - self.num_things
        known = labels < self.num_things + self.num_stuff
        found = torch.where(known, stuff, labels)
        return torch.where(labels < self.num_things, self.num_stuff, found)


class ConvUpsample(nn.Module):
    """A convolution and bilinear upsampling by two, `times` times; without upsampling for 0."""

    def __init__(self, in_channels: int, channels: int, times: int, **norms: Any) -> None:
        super().__init__()
        self.times = times
        reserve(times)
        self.conv = nn.ModuleList(
            ConvModule(channels if i else in_channels, channels, 3, padding=1, **norms)
            for i in range(max(times, 1))
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, in_channels, h, w] -> [B, channels, 2^times h, 2^times w]."""
        for conv in self.conv:
            x = conv(x)
            if self.times:
                x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        return x
