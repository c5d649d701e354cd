"""Mask2Former's pixel decoder: deformable attention over the coarse maps, then a top-down path."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cupola import nn
from cupola.models.detr.nested import NestedEncoder
from cupola.models.layers import ConvModule
from cupola.models.layers.deformable_attention import MultiScaleDeformableAttention
from cupola.models.layers.deformable_transformer import DeformableDetrTransformerEncoder, encode
from cupola.models.layers.feature_levels import flatten_levels
from cupola.models.mask_classification import caffe2_xavier
from cupola.models.maskformer.pixel_decoder import GROUP_NORM, POSITIONS, RELU, build_positions
from cupola.registry import MODELS

Config = Mapping[str, Any]


@MODELS.register_module()
class MSDeformAttnPixelDecoder(nn.Module):
    """maps [B, C_i, h_i, w_i] -> mask features [B, out_channels, h_0, w_0], and memories.

    The encoder takes the `num_levels` coarsest maps; the finer ones join by a bilinear top-down
    path. Memories are `num_outs` maps [B, C, h, w], the coarsest first. Padding is attended to like
    any other cell, as in the original.
    Source: mmdet/models/layers/msdeformattn_pixel_decoder.py.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        feat_channels: int,
        out_channels: int,
        encoder: Config,
        num_outs: int = 3,
        norm_cfg: Config = GROUP_NORM,
        act_cfg: Config = RELU,
        positional_encoding: Config = POSITIONS,
        strides: Sequence[int] = (4, 8, 16, 32),
        init_cfg: Any = None,
    ) -> None:
        super().__init__()
        self.init_cfg = init_cfg
        self.num_outs = num_outs
        settings = {key: value for key, value in encoder.items() if key != "type"}
        nested = "transformerlayers" in settings  # MMDetection 2.x
        built = (
            NestedEncoder(**settings) if nested else DeformableDetrTransformerEncoder(**settings)
        )
        first = built.layers[0]
        self.num_levels: int = (first.attentions[0] if nested else first.self_attn).num_levels
        if not 0 < self.num_levels <= len(in_channels):
            raise ValueError(
                f"the encoder has {self.num_levels} levels, but there are {len(in_channels)} maps"
            )
        finer = len(in_channels) - self.num_levels
        common: dict[str, Any] = {"norm_cfg": norm_cfg, "act_cfg": None}
        self.input_convs = nn.ModuleList(
            ConvModule(channels, feat_channels, 1, bias=True, **common)
            for channels in reversed(in_channels[finer:])
        )
        self.encoder = built
        self.positional_encoding = build_positions(positional_encoding)
        self.level_encoding = nn.Embedding(self.num_levels, feat_channels)
        self.lateral_convs = nn.ModuleList(
            ConvModule(channels, feat_channels, 1, **common)
            for channels in reversed(in_channels[:finer])
        )
        self.output_convs = nn.ModuleList(
            ConvModule(
                feat_channels, feat_channels, 3, padding=1, norm_cfg=norm_cfg, act_cfg=act_cfg
            )
            for _ in range(finer)
        )
        self.mask_feature = nn.Conv2d(feat_channels, out_channels, 1)
        self._initialize()

    def _initialize(self) -> None:
        for conv in self.input_convs:
            nn.init.xavier_uniform_(conv.conv.weight)
            nn.init.zeros_(conv.conv.bias)
        for conv in (*self.lateral_convs, *self.output_convs):
            caffe2_xavier(conv.conv)
        caffe2_xavier(self.mask_feature)
        for parameter in self.encoder.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_normal_(parameter)
        for module in self.encoder.modules():
            if isinstance(module, MultiScaleDeformableAttention):
                module.init_weights()

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        coarse = list(reversed(maps[-self.num_levels :]))
        projected = [conv(x) for conv, x in zip(self.input_convs, coarse, strict=True)]
        levels = flatten_levels(
            projected, None, self.positional_encoding, self.level_encoding.weight
        )
        memory = encode(self.encoder.layers, levels)  # [B, S, C]
        lengths = [height * width for height, width in levels.shapes]
        memories = [
            torch.unflatten(cells.transpose(1, 2), 2, shape)
            for cells, shape in zip(torch.split(memory, lengths, dim=1), levels.shapes, strict=True)
        ]
        x = memories[-1]
        finer = reversed(maps[: -self.num_levels])
        for lateral, output, features in zip(
            self.lateral_convs, self.output_convs, finer, strict=True
        ):
            add = lateral(features)
            x = output(add + F.interpolate(x, size=add.shape[-2:], mode="bilinear"))
            memories.append(x)
        return self.mask_feature(x), memories[: self.num_outs]
