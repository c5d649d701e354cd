"""FusedSemanticHead: the classes of all pixels, from all levels of the pyramid.

Letters: B images, (h, w) the level at which the maps are joined.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from cupola import nn
from cupola.models.layers import ConvModule
from cupola.registry import MODELS

Config = Mapping[str, Any]
LOSS: Config = {"type": "CrossEntropyLoss", "ignore_index": 255, "loss_weight": 0.2}


@MODELS.register_module()
class FusedSemanticHead(nn.Module):
    """All levels, resized to level `fusion_level`, summed and convolved.

    Source: mmdet/models/roi_heads/mask_heads/fused_semantic_head.py.
    """

    def __init__(
        self,
        num_ins: int,
        fusion_level: int,
        seg_scale_factor: float = 1 / 8,
        num_convs: int = 4,
        in_channels: int = 256,
        conv_out_channels: int = 256,
        num_classes: int = 183,
        conv_cfg: Config | None = None,
        norm_cfg: Config | None = None,
        ignore_label: int | None = None,
        loss_weight: float | None = None,
        loss_seg: Config | None = None,
        init_cfg: Any = None,
    ) -> None:
        super().__init__()
        self.init_cfg = init_cfg or {"type": "Kaiming", "override": {"name": "conv_logits"}}
        self.fusion_level, self.scale = fusion_level, seg_scale_factor
        settings: dict[str, Any] = {"conv_cfg": conv_cfg, "norm_cfg": norm_cfg}
        self.lateral_convs = nn.ModuleList(
            ConvModule(in_channels, in_channels, 1, **settings) for _ in range(num_ins)
        )
        self.convs = nn.ModuleList(
            ConvModule(
                conv_out_channels if i else in_channels, conv_out_channels, 3, padding=1, **settings
            )
            for i in range(num_convs)
        )
        self.conv_embedding = ConvModule(conv_out_channels, conv_out_channels, 1, **settings)
        self.conv_logits = nn.Conv2d(conv_out_channels, num_classes, 1)
        loss = dict(loss_seg or LOSS)
        loss |= {"ignore_index": ignore_label} if ignore_label else {}  # older names
        loss |= {"loss_weight": loss_weight} if loss_weight else {}
        self.criterion = MODELS.build(loss)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Maps [B, C, h_i, w_i] -> class logits and features, both at `fusion_level`."""
        level = self.fusion_level
        x = self.lateral_convs[level](maps[level])
        for i, each in enumerate(maps):
            if i != level:
                each = F.interpolate(each, x.shape[-2:], mode="bilinear", align_corners=True)
                x = x + self.lateral_convs[i](each)
        for conv in self.convs:
            x = conv(x)
        return self.conv_logits(x), self.conv_embedding(x)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Logits [B, C, h, w], the classes of pixels [B, 1, H, W] -> a scalar."""
        small = F.interpolate(labels.float(), scale_factor=self.scale, mode="nearest")
        found: Tensor = self.criterion(logits, small[:, 0].long())
        return found
