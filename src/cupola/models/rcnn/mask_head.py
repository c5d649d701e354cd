"""FCNMaskHead: a mask per class for every region (Mask R-CNN, arXiv 1703.06870).

Letters: R regions, C classes, P positive regions of a batch, (m, n) size of a mask.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cupola import nn
from cupola.models.layers import ConvModule, build_conv
from cupola.models.rcnn.sampling import RoISample
from cupola.ops.roi_align import roi_align
from cupola.registry import MODELS

Config = Mapping[str, Any]
UPSAMPLING = (None, "deconv", "nearest", "bilinear", "carafe")


@MODELS.register_module()
class FCNMaskHead(nn.Module):
    """Convolutions, upsampling by two, and a 1x1 convolution to one mask per class.

    Source: mmdet/models/roi_heads/mask_heads/fcn_mask_head.py.
    """

    def __init__(
        self,
        num_convs: int = 4,
        roi_feat_size: int = 14,
        in_channels: int = 256,
        conv_kernel_size: int = 3,
        conv_out_channels: int = 256,
        num_classes: int = 80,
        class_agnostic: bool = False,
        upsample_cfg: Config | None = None,
        conv_cfg: Config | None = None,
        norm_cfg: Config | None = None,
        predictor_cfg: Config | None = None,
        loss_mask: Config | None = None,
        init_cfg: Any = None,
    ) -> None:
        super().__init__()
        self.init_cfg = init_cfg
        self.num_classes, self.class_agnostic = num_classes, class_agnostic
        self.loss_mask = MODELS.build(loss_mask or {"type": "CrossEntropyLoss", "use_mask": True})
        self.convs = nn.ModuleList(
            ConvModule(
                conv_out_channels if i else in_channels,
                conv_out_channels,
                conv_kernel_size,
                padding=(conv_kernel_size - 1) // 2,
                conv_cfg=conv_cfg,
                norm_cfg=norm_cfg,
            )
            for i in range(num_convs)
        )
        channels = conv_out_channels if num_convs else in_channels
        upsampling = dict(upsample_cfg or {"type": "deconv", "scale_factor": 2})
        self.mode, self.factor = upsampling["type"], upsampling.get("scale_factor", 2)
        if self.mode not in UPSAMPLING:
            raise ValueError(f"upsample_cfg type is one of {UPSAMPLING}, got {self.mode!r}")
        self.upsample: Any = None
        if self.mode == "carafe":
            self.upsample = MODELS.build({**upsampling, "channels": channels})
        elif self.mode == "deconv":
            self.upsample = nn.ConvTranspose2d(
                channels, conv_out_channels, self.factor, stride=self.factor
            )
            channels = conv_out_channels
        masks = 1 if class_agnostic else num_classes
        self.conv_logits = build_conv(predictor_cfg, channels, masks, 1)

    def init_weights(self) -> None:
        """Kaiming's normal initialization of the last two layers."""
        layer: Any
        for layer in (self.upsample, self.conv_logits):
            if hasattr(layer, "weight"):  # CARAFE has weights of its own
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Regions [R, in_channels, h, w] -> mask logits [R, C, m, n]; C is 1 if class-agnostic."""
        for conv in self.convs:
            x = conv(x)
        logits: Tensor = self.conv_logits(self.upsampled(x))
        return logits

    def upsampled(self, x: Tensor) -> Tensor:
        """[R, channels, h, w] -> [R, channels, m, n]."""
        if self.upsample is not None:
            x = self.upsample(x)
            return F.relu(x, inplace=True) if self.mode == "deconv" else x
        if self.mode is None:
            return x
        corners = None if self.mode == "nearest" else False
        return F.interpolate(
            x, scale_factor=self.factor, mode=str(self.mode), align_corners=corners
        )

    def of_classes(self, masks: Tensor, labels: Tensor) -> Tensor:
        """The masks of the given classes: [R, C, m, n], labels [R] -> [R, m, n]."""
        which = torch.zeros_like(labels) if self.class_agnostic else labels
        return masks[torch.arange(len(masks), device=masks.device), which]

    def loss(
        self,
        logits: Tensor,
        samples: Sequence[RoISample],
        targets: Sequence[Mapping[str, Tensor]],
        cfg: Config,
    ) -> dict[str, Tensor]:
        """loss_mask of the positive regions' logits [P, C, m, n]."""
        if not len(logits):
            return {"loss_mask": logits.sum()}
        wanted = mask_targets(samples, targets, cfg["mask_size"])
        labels = torch.cat([each.labels for each in samples])
        return {"loss_mask": self.loss_mask(self.of_classes(logits, labels), wanted)}


def mask_targets(
    samples: Sequence[RoISample],
    targets: Sequence[Mapping[str, Tensor]],
    size: int | Sequence[int],
) -> Tensor:
    """The objects' masks within the positive regions [P, m, n], 0 or 1, float."""
    m, n = (size, size) if isinstance(size, int) else size
    found = []
    for sample, target in zip(samples, targets, strict=True):
        if "masks" not in target:
            raise ValueError("targets need masks to train this model: load annotations with_mask")
        masks = target["masks"].to(sample.boxes)  # [N, H, W]
        H, W = masks.shape[-2:]
        boxes = sample.positive
        limit = boxes.new_tensor([W, H, W, H])
        boxes = torch.minimum(boxes.clamp(min=0), limit)
        rois = torch.cat((sample.objects[:, None].to(boxes), boxes), 1)
        if not len(rois):
            found.append(boxes.new_zeros(0, m, n))
            continue
        values = roi_align(masks[:, None], rois, (m, n))  # [P, 1, m, n]
        found.append((values[:, 0] >= 0.5).to(boxes))
    return torch.cat(found)
