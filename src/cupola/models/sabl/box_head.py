"""SABLHead: sides of regions from features of rows and columns.

Letters: R regions, C classes, D channels, K buckets of a side.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cupola import nn
from cupola.models.dense import Candidates
from cupola.models.layers import ConvModule
from cupola.models.rcnn.box_head import BBoxHead
from cupola.models.rcnn.sampling import RoISample
from cupola.registry import MODELS, TASK_UTILS
from cupola.registry.budget import reserve

Config = Mapping[str, Any]
Size = tuple[int, int]
CODER: Config = {"type": "BucketingBBoxCoder", "num_buckets": 14, "scale_factor": 1.7}


def _normal(name: str, std: float = 0.01) -> dict[str, Any]:
    return {"type": "Normal", "name": name, "std": std}


INITIAL = [
    {
        "type": "Xavier",
        "layer": "Linear",
        "distribution": "uniform",
        "override": [
            *map(_normal, ("reg_conv_att_x", "reg_conv_att_y", "fc_reg_cls", "fc_cls")),
            _normal("fc_reg_offset", 0.001),
        ],
    }
]
UPSAMPLING = {
    "type": "Kaiming",
    "distribution": "normal",
    "override": [{"name": "upsample_x"}, {"name": "upsample_y"}],
}


@MODELS.register_module()
class SABLHead(BBoxHead):
    """A BBoxHead whose deltas [R, 8 * K] are logits of buckets and offsets; classes share them.

    Source: paper, figure 2; mmdet/models/roi_heads/bbox_heads/sabl_head.py.
    """

    def __init__(
        self,
        num_classes: int,
        cls_in_channels: int = 256,
        reg_in_channels: int = 256,
        roi_feat_size: int = 7,
        reg_feat_up_ratio: int = 2,
        reg_pre_kernel: int = 3,
        reg_post_kernel: int = 3,
        reg_pre_num: int = 2,
        reg_post_num: int = 1,
        cls_out_channels: int = 1024,
        reg_offset_out_channels: int = 256,
        reg_cls_out_channels: int = 256,
        num_cls_fcs: int = 1,
        num_reg_fcs: int = 0,
        reg_class_agnostic: bool = True,
        norm_cfg: Config | None = None,
        bbox_coder: Config = CODER,
        loss_cls: Config | None = None,
        loss_bbox_cls: Config | None = None,
        loss_bbox_reg: Config | None = None,
        init_cfg: Any = None,
    ) -> None:
        nn.Module.__init__(self)  # the layers differ from those of a BBoxHead
        if not reg_class_agnostic:
            raise ValueError("SABLHead has one box for all classes: set reg_class_agnostic=True")
        self.num_classes, self.class_agnostic, self.ratio = num_classes, True, reg_feat_up_ratio
        self.bbox_coder = TASK_UTILS.build(bbox_coder)
        if roi_feat_size * reg_feat_up_ratio != self.bbox_coder.count:
            raise ValueError("roi_feat_size * reg_feat_up_ratio is the coder's num_buckets")
        self.loss_cls = MODELS.build(loss_cls or {"type": "CrossEntropyLoss"})
        self.loss_bbox_cls = MODELS.build(
            loss_bbox_cls or {"type": "CrossEntropyLoss", "use_sigmoid": True}
        )
        self.loss_bbox_reg = MODELS.build(loss_bbox_reg or {"type": "SmoothL1Loss", "beta": 0.1})
        channels, inputs = reg_in_channels, cls_in_channels * roi_feat_size**2
        self.cls_fcs = linear_layers(num_cls_fcs, inputs, cls_out_channels)
        self.upsample_x = self.upsample_y = None
        if reg_feat_up_ratio > 1:
            up = (channels, channels, reg_feat_up_ratio, reg_feat_up_ratio)
            self.upsample_x, self.upsample_y = nn.ConvTranspose1d(*up), nn.ConvTranspose1d(*up)
        pre, post = reg_pre_kernel, reg_post_kernel
        self.reg_pre_convs = convolutions(reg_pre_num, channels, (pre, pre), norm_cfg)
        self.reg_post_conv_xs = convolutions(reg_post_num, channels, (1, post), norm_cfg)
        self.reg_post_conv_ys = convolutions(reg_post_num, channels, (post, 1), norm_cfg)
        self.reg_conv_att_x = nn.Conv2d(channels, 1, 1)
        self.reg_conv_att_y = nn.Conv2d(channels, 1, 1)
        self.fc_cls = nn.Linear(cls_out_channels, num_classes + 1)
        self.reg_cls_fcs = linear_layers(num_reg_fcs, channels, reg_cls_out_channels)
        self.reg_offset_fcs = linear_layers(num_reg_fcs, channels, reg_offset_out_channels)
        self.fc_reg_cls = nn.Linear(reg_cls_out_channels, 1)
        self.fc_reg_offset = nn.Linear(reg_offset_out_channels, 1)
        self.init_cfg = init_cfg or [*INITIAL, *([UPSAMPLING] if reg_feat_up_ratio > 1 else [])]

    def forward(self, x: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Regions [R, D, h, w] -> logits [R, C + 1], buckets and offsets [R, 8 * K]."""
        flat = x.flatten(1)
        for layer in self.cls_fcs:
            flat = F.relu(layer(flat))
        assert self.fc_cls is not None
        sides = [self._line(each) for each in self._rows_and_columns(x)]  # each [R, 2, 2, K]
        return self.fc_cls(flat), torch.cat(sides, 2).flatten(1)

    def _rows_and_columns(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Regions [R, D, h, w] -> features along x [R, count, D] and along y [R, count, D]."""
        for conv in self.reg_pre_convs:
            x = conv(x)
        along_x, along_y = self.reg_conv_att_x(x).sigmoid(), self.reg_conv_att_y(x).sigmoid()
        columns = (x * along_x / along_x.sum(2, keepdim=True)).sum(2, keepdim=True)
        rows = (x * along_y / along_y.sum(3, keepdim=True)).sum(3, keepdim=True)
        for conv_x, conv_y in zip(self.reg_post_conv_xs, self.reg_post_conv_ys, strict=True):
            columns, rows = conv_x(columns), conv_y(rows)
        columns, rows = columns[:, :, 0], rows[..., 0]  # [R, D, w], [R, D, h]
        if self.upsample_x is not None and self.upsample_y is not None:
            columns, rows = F.relu(self.upsample_x(columns)), F.relu(self.upsample_y(rows))
        return columns.transpose(1, 2), rows.transpose(1, 2)

    def _line(self, features: Tensor) -> Tensor:
        """Features along a line [R, count, D] -> [R, 2, 2, K]: logits and offsets of both ends."""
        logits = offsets = features
        for layer in self.reg_cls_fcs:
            logits = F.relu(layer(logits))
        for layer in self.reg_offset_fcs:
            offsets = F.relu(layer(offsets))
        found = torch.cat((self.fc_reg_cls(logits), self.fc_reg_offset(offsets)), -1).transpose(
            1, 2
        )
        k = self.bbox_coder.side_num
        return torch.stack((found[..., :k], found[..., -k:].flip(-1)), 2)

    def located(
        self, regions: Tensor, deltas: Tensor | None, size: Size | None
    ) -> tuple[Tensor, Tensor]:
        """Regions [R, 4] -> boxes [R, 4] and their confidences [R]."""
        assert deltas is not None
        boxes, confidence = self.bbox_coder.decode(regions, deltas, size)
        return boxes, confidence

    def boxes(self, regions: Tensor, deltas: Tensor | None, size: Size | None) -> Tensor:
        """Regions [R, 4], buckets and offsets [R, 8 * K] -> boxes [R, 1, 4]."""
        return self.located(regions, deltas, size)[0][:, None]

    def scored_boxes(
        self, regions: Tensor, logits: Tensor, deltas: Tensor | None, size: Size | None
    ) -> tuple[Tensor, Tensor]:
        """Scores [R, C] times the confidence of the box, and boxes [R, 1, 4]."""
        boxes, confidence = self.located(regions, deltas, size)
        return self.scores(logits)[:, :-1] * confidence[:, None], boxes[:, None]

    def detected(
        self, regions: Tensor, logits: Tensor, deltas: Tensor | None, size: Size, cfg: Config
    ) -> Candidates:
        """The boxes whose class scores are above `score_thr`, before these count as confidences."""
        boxes, confidence = self.located(regions, deltas, size)
        scores = self.scores(logits)[:, :-1]
        which, labels = (scores > cfg.get("score_thr", 0)).nonzero(as_tuple=True)
        return Candidates(boxes[which], scores[which, labels] * confidence[which], labels)

    def loss(
        self,
        logits: Tensor | None,
        deltas: Tensor | None,
        samples: Sequence[RoISample],
        cfg: Config,
    ) -> dict[str, Tensor]:
        """loss_cls, acc (percent), loss_bbox_cls and loss_bbox_reg of the sampled regions."""
        assert logits is not None and deltas is not None
        labels, weights = self.class_targets(samples, {})
        average = max(float((weights > 0).sum()), 1.0)
        positive = labels < self.num_classes
        found, offsets = deltas[positive].chunk(2, 1)
        wanted = self.bbox_coder.encode(
            torch.cat([each.positive for each in samples]),
            torch.cat([each.targets for each in samples]),
        )
        count = float(max(len(labels), 1))
        return {
            **self.class_loss(logits, labels, weights, average),
            "loss_bbox_cls": self.loss_bbox_cls(
                found, wanted.nearest, wanted.nearest_weights, avg_factor=4 * count
            ),
            "loss_bbox_reg": self.loss_bbox_reg(
                offsets, wanted.offsets, wanted.offset_weights, avg_factor=count
            ),
        }


def linear_layers(count: int, inputs: int, outputs: int) -> nn.ModuleList:
    """`count` linear layers."""
    reserve(count)
    return nn.ModuleList(nn.Linear(outputs if i else inputs, outputs) for i in range(count))


def convolutions(
    count: int, channels: int, kernel: tuple[int, int], norm_cfg: Config | None
) -> nn.ModuleList:
    """`count` convolutions that keep the shape."""
    reserve(count)
    size: Any = kernel
    padding: Any = (kernel[0] // 2, kernel[1] // 2)
    return nn.ModuleList(
        ConvModule(channels, channels, size, padding=padding, norm_cfg=norm_cfg)
        for _ in range(count)
    )
