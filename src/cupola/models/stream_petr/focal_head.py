"""FocalHead: StreamPETR's auxiliary 2-D head, which only its training uses.

Letters: B samples, N cameras, C classes, h and w size of the feature map.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cupola import nn
from cupola.models.detr3d.box_head import PRIOR_PROBABILITY
from cupola.models.layers import inverse_sigmoid
from cupola.registry import MODELS


class FocalOutput(NamedTuple):
    """Per cell of every camera, in fractions of the image.

    logits: [B * N, h * w, C]. boxes: [B * N, h * w, 4], cxcywh. centers: [B * N, h * w, 2], of the
    projected 3-D box. centerness: [B * N, h * w, 1], logits.
    """

    logits: Tensor
    boxes: Tensor
    centers: Tensor
    centerness: Tensor


@MODELS.register_module()
class FocalHead(nn.Module):
    """Classes, boxes and projected centers of every cell. Its losses are not included.

    The settings of losses, assigner and token sampling are accepted and unused.
    Source: Focal-PETR (arXiv 2212.05505); focal_head.py.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 256,
        embed_dims: int = 256,
        stride: int = 16,
        train_cfg: Mapping[str, Any] | None = None,
        test_cfg: Mapping[str, Any] | None = None,
        init_cfg: Any = None,
        **unused: Any,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.stride = stride
        self.cls = nn.Conv2d(embed_dims, num_classes, 1)
        self.shared_reg = _shared(in_channels, embed_dims)
        self.shared_cls = _shared(in_channels, embed_dims)
        self.centerness = nn.Conv2d(embed_dims, 1, 1)
        self.ltrb = nn.Conv2d(embed_dims, 4, 1)
        self.center2d = nn.Conv2d(embed_dims, 2, 1)
        bias = -math.log(1 / PRIOR_PROBABILITY - 1)
        nn.init.constant_(self.cls.bias, bias)
        nn.init.constant_(self.centerness.bias, bias)

    def forward(self, features: Tensor, locations: Tensor) -> FocalOutput:
        """features [B, N, C, h, w]; locations [h, w, 2], (x, y) of the cells in 0..1."""
        x = features.flatten(0, 1)
        classes, places = self.shared_cls(x), self.shared_reg(x)
        ltrb = _cells(self.ltrb(places)).sigmoid()
        where = locations.flatten(0, 1)  # [h * w, 2]
        low = (where - ltrb[..., :2]).clamp(0, 1)
        high = (where + ltrb[..., 2:]).clamp(0, 1)
        return FocalOutput(
            _cells(self.cls(classes)),
            torch.cat(((low + high) / 2, high - low), -1),
            (inverse_sigmoid(where) + _cells(self.center2d(places))).sigmoid(),
            _cells(self.centerness(classes)),
        )


def _shared(channels: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, hidden, 3, padding=1), nn.GroupNorm(32, hidden), nn.ReLU()
    )


def _cells(maps: Tensor) -> Tensor:
    """[B * N, C, h, w] -> [B * N, h * w, C]"""
    return maps.flatten(2).transpose(1, 2)
