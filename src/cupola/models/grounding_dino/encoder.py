"""The encoder of Grounding DINO: image and text are fused, then each attends to itself.

Letters: B images, S cells of all levels, T tokens, C channels, H heads.
Source: mmdet/models/layers/transformer/grounding_dino_layers.py.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cupola import nn
from cupola.models.bert import TextFeatures
from cupola.models.detr.transformer import DetrTransformerEncoderLayer
from cupola.models.grounding.fusion import BiAttention
from cupola.models.layers import FeatureLevels, sine_waves
from cupola.models.layers.deformable_transformer import DeformableEncoderLayer
from cupola.models.layers.feature_levels import cell_centers
from cupola.registry.budget import reserve

Config = Mapping[str, Any]


class Memory(NamedTuple):
    """image [B, S, C] and text [B, T, C], each of which has read the other.

    words [B, T] is True where there is a token.
    """

    image: Tensor
    text: Tensor
    words: Tensor


class GroundingDinoTransformerEncoder(nn.Module):
    """num_layers times: fusion, self-attention of the text, deformable attention of the image.

    `num_cp` saves memory in the original only.
    """

    def __init__(
        self,
        num_layers: int,
        layer_cfg: Config,
        text_layer_cfg: Config,
        fusion_layer_cfg: Config,
        num_cp: int = -1,
        init_cfg: Any = None,
    ) -> None:
        super().__init__()
        reserve(num_layers)
        self.num_layers = num_layers
        each = range(num_layers)
        self.layers = nn.ModuleList(DeformableEncoderLayer(**layer_cfg) for _ in each)
        self.text_layers = nn.ModuleList(
            DetrTransformerEncoderLayer(**text_layer_cfg) for _ in each
        )
        self.fusion_layers = nn.ModuleList(BiAttention(**fusion_layer_cfg) for _ in each)
        self.embed_dims: int = self.layers[0].embed_dims

    def forward(self, levels: FeatureLevels, text: TextFeatures) -> Memory:
        """The cells of all levels, and a text's `embedded` [B, T, C] -> Memory."""
        cells, words = levels.cells, text.embedded
        references, places = cell_centers(levels), self.positions(text)
        heads = self.text_layers[0].self_attn.num_heads
        hidden = None if text.attention is None else unseen(text.attention, heads)
        padded = None if hidden is not None else ~text.mask
        for layer, own, fusion in zip(
            self.layers, self.text_layers, self.fusion_layers, strict=True
        ):
            cells, words = fusion(cells, words, levels.padding, text.mask)
            words = own(words, places, padded, hidden)
            cells = layer(
                cells,
                query_pos=levels.positions,
                query_key_padding_mask=levels.padding,
                reference_points=references,
                spatial_shapes=levels.shapes,
            )
        return Memory(cells, words, text.mask)

    def positions(self, text: TextFeatures) -> Tensor:
        """The encoding [B, T, C] of every token's place in its sub-sentence, or in the text."""
        places = text.positions
        if places is None:
            places = torch.arange(text.mask.shape[1], device=text.mask.device)[None]
        waves = sine_waves(places * (2 * math.pi), self.embed_dims)
        return waves.to(text.embedded.dtype)


def unseen(sees: Tensor, heads: int) -> Tensor:
    """Which tokens see which [B, T, T] -> True where they do not [B * H, T, T].

    Every image has its own mask. The original repeats the masks in another order than the heads,
    so that in a batch an image's text is read with another's mask.
    """
    return (~sees)[:, None].expand(-1, heads, -1, -1).flatten(0, 1)
