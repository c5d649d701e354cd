"""Pixel decoders: feature maps of a backbone -> a map of mask features, as in FPN."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from cupola import nn
from cupola.models.detr.nested import NestedEncoder
from cupola.models.detr.transformer import DetrTransformerEncoder
from cupola.models.layers import ConvModule, SinePositionalEncoding
from cupola.models.layers.feature_levels import feature_mask, map_positions
from cupola.models.mask_classification import caffe2_xavier
from cupola.registry import MODELS

Config = Mapping[str, Any]
GROUP_NORM: Config = {"type": "GN", "num_groups": 32}
RELU: Config = {"type": "ReLU"}
POSITIONS: Config = {"num_feats": 128, "normalize": True}


def build_positions(cfg: Config) -> SinePositionalEncoding:
    """The position encoding of a config, with or without its type."""
    return SinePositionalEncoding(**{key: value for key, value in cfg.items() if key != "type"})


class TopDown(nn.Module):
    """Lateral 1x1 convolutions, nearest top-down path and 3x3 convolutions, without the last map.

    State keys lateral_convs, output_convs. Abstract: `start` gives the coarsest map.
    """

    def __init__(
        self, in_channels: Sequence[int], feat_channels: int, norm_cfg: Config, act_cfg: Config
    ) -> None:
        super().__init__()
        self.lateral_convs = nn.ModuleList(
            ConvModule(channels, feat_channels, 1, norm_cfg=norm_cfg, act_cfg=None)
            for channels in in_channels[:-1]
        )
        self.output_convs = nn.ModuleList(
            ConvModule(
                feat_channels, feat_channels, 3, padding=1, norm_cfg=norm_cfg, act_cfg=act_cfg
            )
            for _ in in_channels[:-1]
        )

    def merge(self, coarsest: Tensor, maps: Sequence[Tensor]) -> Tensor:
        """coarsest [B, C, h, w], maps from fine to coarse without the last -> the finest map."""
        x = coarsest
        for lateral, output, features in reversed(
            list(zip(self.lateral_convs, self.output_convs, maps, strict=True))
        ):
            finer = lateral(features)
            x = output(finer + F.interpolate(x, size=finer.shape[-2:]))
        return x


@MODELS.register_module()
class PixelDecoder(TopDown):
    """maps [B, C_i, h_i, w_i] -> mask features [B, out_channels, h_0, w_0], and the last map.

    Source: mmdet/models/layers/pixel_decoder.py; state keys also last_feat_conv, mask_feature.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        feat_channels: int,
        out_channels: int,
        norm_cfg: Config = GROUP_NORM,
        act_cfg: Config = RELU,
        init_cfg: Any = None,
    ) -> None:
        super().__init__(in_channels, feat_channels, norm_cfg, act_cfg)
        self.init_cfg = init_cfg
        self.last_feat_conv = ConvModule(
            in_channels[-1], feat_channels, 3, padding=1, norm_cfg=norm_cfg, act_cfg=act_cfg
        )
        self.mask_feature = nn.Conv2d(feat_channels, out_channels, 3, padding=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                caffe2_xavier(module)

    def forward(
        self, maps: Sequence[Tensor], padding_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The padding mask is not used."""
        features = self.merge(self.last_feat_conv(maps[-1]), maps[:-1])
        return self.mask_feature(features), maps[-1]


@MODELS.register_module()
class TransformerEncoderPixelDecoder(TopDown):
    """As PixelDecoder, with DETR's encoder on the last map, whose output is the second result.

    State keys also mask_feature, encoder, encoder_in_proj, encoder_out_proj.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        feat_channels: int,
        out_channels: int,
        encoder: Config,
        norm_cfg: Config = GROUP_NORM,
        act_cfg: Config = RELU,
        positional_encoding: Config = POSITIONS,
        init_cfg: Any = None,
    ) -> None:
        super().__init__(in_channels, feat_channels, norm_cfg, act_cfg)
        self.init_cfg = init_cfg
        self.mask_feature = nn.Conv2d(feat_channels, out_channels, 3, padding=1)
        settings = {key: value for key, value in encoder.items() if key != "type"}
        nested = "transformerlayers" in settings  # MMDetection 2.x
        self.encoder = NestedEncoder(**settings) if nested else DetrTransformerEncoder(**settings)
        if self.encoder.embed_dims != feat_channels:
            raise ValueError(
                f"the encoder has embed_dims {self.encoder.embed_dims}, which has to be "
                f"feat_channels, {feat_channels}"
            )
        self.positional_encoding = build_positions(positional_encoding)
        self.encoder_in_proj = nn.Conv2d(in_channels[-1], feat_channels, 1)
        self.encoder_out_proj = ConvModule(
            feat_channels, feat_channels, 3, padding=1, norm_cfg=norm_cfg, act_cfg=act_cfg
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                caffe2_xavier(module)
        for parameter in self.encoder.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(
        self, maps: Sequence[Tensor], padding_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """padding_mask [B, H, W] of the images, True = padded."""
        last = self.encoder_in_proj(maps[-1])
        padding = feature_mask(padding_mask, last)
        pos = map_positions(self.positional_encoding, last, padding).flatten(2).transpose(1, 2)
        cells = last.flatten(2).transpose(1, 2)  # [B, hw, C]
        cells = self.encoder(cells, pos, None if padding is None else padding.flatten(1))
        memory = cells.transpose(1, 2).reshape(last.shape)
        features = self.merge(self.encoder_out_proj(memory), maps[:-1])
        return self.mask_feature(features), memory
