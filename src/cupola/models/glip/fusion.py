"""The tower of GLIP's head: image and text, fused before each layer or compared at the end.

Letters: B images, S cells of a level, T tokens, C channels, L channels of the text.
Source: mmdet/models/dense_heads/atss_vlfusion_head.py; mmdet/models/utils/vlfuse_helper.py.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from cupola import nn
from cupola.models.bert import BertLayer, BertSettings, TextFeatures
from cupola.models.glip.dynamic_conv import DynamicConv
from cupola.models.grounding.fusion import LIMIT, BiAttention
from cupola.models.layers.scale import Scale
from cupola.registry.budget import reserve

ATTENTION, HEADS = 2048, 8  # channels and heads of the attention between image and text
GAMMA = 1 / 6  # what its results are scaled by before training
PRIOR_BIAS = -math.log((1 - 0.01) / 0.01)
LEVELS = 5


class VLFuse(nn.Module):
    """Attention between the cells of all levels and the text. State key b_attn."""

    def __init__(self, image_channels: int, text_channels: int) -> None:
        super().__init__()
        self.b_attn = BiAttention(
            image_channels, text_channels, ATTENTION, HEADS, init_values=GAMMA
        )

    def forward(
        self, maps: Sequence[Tensor], text: Tensor, words: Tensor
    ) -> tuple[list[Tensor], Tensor]:
        """maps [B, C, h, w], text [B, T, L] -> the same of both shapes."""
        cells = torch.cat([each.flatten(2).transpose(1, 2) for each in maps], 1)
        cells, text = self.b_attn(cells, text, None, words)
        parts = cells.split([each.shape[2:].numel() for each in maps], 1)
        return [
            part.transpose(1, 2).unflatten(2, each.shape[2:])
            for part, each in zip(parts, maps, strict=True)
        ], text


class FusedOutput(NamedTuple):
    """One tensor per level: logits [B, S, T], deltas [B, 4, h, w], centerness [B, 1, h, w]."""

    logits: tuple[Tensor, ...]
    boxes: tuple[Tensor, ...]
    qualities: tuple[Tensor, ...]


class VLFusionModule(nn.Module):
    """Feature maps and a text -> FusedOutput; cells are compared with tokens.

    With `early_fuse` the text takes part in every layer.
    """

    def __init__(
        self,
        in_channels: int,
        feat_channels: int,
        early_fuse: bool,
        num_dyhead_blocks: int,
        language: BertSettings,
    ) -> None:
        super().__init__()
        reserve(num_dyhead_blocks)
        self.early_fuse = early_fuse
        text, tower = language.hidden_size, list[nn.Module]()
        for i in range(num_dyhead_blocks):
            channels = feat_channels if i else in_channels
            if early_fuse:
                tower += [VLFuse(channels, text), BertLayer(language, LIMIT)]
            tower.append(DynamicConv(channels, feat_channels, channels == feat_channels))
        self.dyhead_tower = nn.ModuleList(tower)
        self.bbox_pred = nn.Conv2d(feat_channels, 4, 1)
        self.centerness = nn.Conv2d(feat_channels, 1, 1)
        self.dot_product_projection_text = nn.Linear(text, feat_channels)
        self.log_scale = nn.Parameter(torch.zeros(1))
        self.bias_lang = nn.Parameter(torch.zeros(text))
        self.bias0 = nn.Parameter(torch.tensor([PRIOR_BIAS]))
        self.scales = nn.ModuleList(Scale() for _ in range(LEVELS))

    def forward(self, maps: Sequence[Tensor], text: TextFeatures) -> FusedOutput:
        """maps [B, C, h, w] of LEVELS levels, text [B, T, L] -> FusedOutput."""
        maps, words = self.fuse(list(maps), text)
        words = F.normalize(words, dim=-1)
        tokens = self.dot_product_projection_text(words / 2)  # [B, T, C]
        bias = (words @ self.bias_lang + self.bias0)[:, None]  # [B, 1, T]
        levels = []
        for x, scale in zip(maps, self.scales, strict=True):
            cells = x.flatten(2).transpose(1, 2)  # [B, S, C]
            logits = cells @ tokens.transpose(1, 2) / self.log_scale.exp() + bias
            deltas = scale(self.bbox_pred(x))
            levels.append((logits.clamp(-LIMIT, LIMIT), deltas, self.centerness(x)))
        return FusedOutput(*zip(*levels, strict=True))

    def fuse(self, maps: list[Tensor], text: TextFeatures) -> tuple[list[Tensor], Tensor]:
        """The maps after all layers, and the text [B, T, L] that they are compared with."""
        if not self.early_fuse:
            for layer in self.dyhead_tower:
                maps = layer(maps)
            return maps, text.embedded
        words, sees = text.hidden, text.mask[:, None]
        parts = iter(self.dyhead_tower)
        for fusion, language, convolution in zip(parts, parts, parts, strict=True):
            maps, words = fusion(maps, words, text.mask)
            words = language(words, sees)
            maps = convolution(maps)
        return maps, words
