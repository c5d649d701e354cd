"""DIIHead: queries attend to each other, then to their regions.

Letters: B images, P queries of an image, C classes, D channels.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from cupola import nn
from cupola.models.layers import FFN, MultiheadAttention, build_norm
from cupola.parallel import SINGLE, Group, mean_over_ranks
from cupola.registry import MODELS, TASK_UTILS
from cupola.registry.budget import reserve

Config = Mapping[str, Any]
RELU: Config = {"type": "ReLU", "inplace": True}
CODER: Config = {
    "type": "DeltaXYWHBBoxCoder",
    "clip_border": True,
    "target_stds": [0.1, 0.1, 0.2, 0.2],
}


@MODELS.register_module()
class DIIHead(nn.Module):
    """A dynamic instance interactive head: one box for all classes.

    Source: Sparse R-CNN, section 3.2; mmdet/models/roi_heads/bbox_heads/dii_head.py.
    """

    def __init__(
        self,
        num_classes: int = 80,
        num_ffn_fcs: int = 2,
        num_heads: int = 8,
        num_cls_fcs: int = 1,
        num_reg_fcs: int = 3,
        feedforward_channels: int = 2048,
        in_channels: int = 256,
        dropout: float = 0.0,
        ffn_act_cfg: Config = RELU,
        dynamic_conv_cfg: Config | None = None,
        bbox_coder: Config = CODER,
        loss_cls: Config | None = None,
        loss_bbox: Config | None = None,
        loss_iou: Config | None = None,
        init_cfg: Any = None,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.data_group: Group = SINGLE  # set by the trainer: the ranks that read other data
        self.bbox_coder = TASK_UTILS.build(bbox_coder)
        self.loss_cls = MODELS.build(loss_cls or {"type": "CrossEntropyLoss"})
        self.loss_bbox = MODELS.build(loss_bbox or {"type": "SmoothL1Loss"})
        self.loss_iou = MODELS.build(loss_iou or {"type": "GIoULoss", "loss_weight": 2.0})
        self.use_sigmoid = bool(getattr(self.loss_cls, "use_sigmoid", False))
        self.fc_cls = nn.Linear(in_channels, num_classes + (not self.use_sigmoid))
        self.fc_reg = nn.Linear(in_channels, 4)
        self.attention = MultiheadAttention(in_channels, num_heads, dropout, batch_first=True)
        self.attention_norm = build_norm({"type": "LN"}, in_channels)
        self.instance_interactive_conv = MODELS.build(dynamic_conv_cfg or {"type": "DynamicConv"})
        self.instance_interactive_conv_dropout = nn.Dropout(dropout)
        self.instance_interactive_conv_norm = build_norm({"type": "LN"}, in_channels)
        self.ffn = FFN(
            in_channels, feedforward_channels, num_ffn_fcs, act_cfg=ffn_act_cfg, dropout=dropout
        )
        self.ffn_norm = build_norm({"type": "LN"}, in_channels)
        self.cls_fcs = normed_layers(num_cls_fcs, in_channels)
        self.reg_fcs = normed_layers(num_reg_fcs, in_channels)

    def init_weights(self) -> None:
        """Xavier's uniform initialization; classes begin with a score of 0.01."""
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        if self.use_sigmoid:
            nn.init.constant_(self.fc_cls.bias, -math.log(99))

    def forward(self, regions: Tensor, features: Tensor) -> tuple[Tensor, ...]:
        """Regions [B * P, D, h, w], features of the queries [B, P, D] of the stage before.

        -> logits [B, P, C], deltas [B, P, 4], features [B, P, D] of the next stage, and those
        after the attention, which mask heads use [B, P, D].
        """
        attended = self.attention_norm(self.attention(features))
        flat = attended.flatten(0, 1)
        seen = self.instance_interactive_conv(flat, regions)
        flat = flat + self.instance_interactive_conv_dropout(seen)
        flat = self.ffn_norm(self.ffn(self.instance_interactive_conv_norm(flat)))
        found = flat.view(features.shape)
        return self.fc_cls(self.cls_fcs(found)), self.fc_reg(self.reg_fcs(found)), found, attended

    def scores(self, logits: Tensor) -> Tensor:
        """Logits [..., C] -> scores [..., C], without the background."""
        return logits.sigmoid() if self.use_sigmoid else logits.softmax(-1)[..., :-1]

    def loss(
        self, logits: Tensor, boxes: Tensor, labels: Tensor, targets: Tensor, pixels: Tensor
    ) -> dict[str, Tensor]:
        """loss_cls, pos_acc (percent), loss_bbox and loss_iou of all queries [Q] of a batch.

        Logits [Q, C], boxes [Q, 4], labels [Q], C for the background. targets [K, 4] of the
        positive ones; pixels [Q, 4]: (w, h, w, h) of the images.
        """
        positive = labels < self.num_classes
        count = mean_over_ranks(positive.sum().float(), self.data_group).clamp(min=1)
        losses = {"loss_cls": self.loss_cls(logits, labels, avg_factor=count)}
        found, size = boxes[positive], pixels[positive]
        if not len(found):
            return losses | {"loss_bbox": boxes.sum() * 0, "loss_iou": boxes.sum() * 0}
        right = (logits[positive].argmax(-1) == labels[positive]).float().mean() * 100
        return losses | {
            "pos_acc": right.detach(),
            "loss_bbox": self.loss_bbox(found / size, targets / size, avg_factor=count),
            "loss_iou": self.loss_iou(found, targets, avg_factor=count),
        }


def normed_layers(count: int, channels: int) -> nn.Sequential:
    """`count` times a linear layer, a norm and an activation."""
    reserve(3 * count)
    layers: list[nn.Module] = []
    for _ in range(count):
        layers.append(nn.Linear(channels, channels, bias=False))
        layers += [build_norm({"type": "LN"}, channels), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


def assigned_targets(
    owners: Tensor, labels: Tensor, boxes: Tensor, num_classes: int
) -> tuple[Tensor, Tensor]:
    """The object of every query [P] or -1 -> labels [P], boxes of positive ones [K, 4]."""
    wanted = torch.full_like(owners, num_classes)
    wanted[owners >= 0] = labels[owners[owners >= 0]]
    return wanted, boxes[owners[owners >= 0]]
