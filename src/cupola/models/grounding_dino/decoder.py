"""The decoder of Grounding DINO: queries also attend to the text.

Letters: B images, Q queries, S cells of all levels, T tokens, C channels.
Source: mmdet/models/layers/transformer/grounding_dino_layers.py.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor

from cupola import nn
from cupola.models.dino import DinoTransformerDecoder
from cupola.models.layers import FFN, MultiheadAttention, MultiScaleDeformableAttention, build_norm

Config = Mapping[str, Any]
LAYER_NORM: Config = {"type": "LN"}
TEXT: Config = {"embed_dims": 256, "num_heads": 8, "dropout": 0.0}


class GroundingDinoDecoderLayer(nn.Module):
    """Attention among queries, to the text, and to the image, then FFN; all post-norm."""

    def __init__(
        self,
        self_attn_cfg: Config,
        cross_attn_cfg: Config,
        ffn_cfg: Config,
        cross_attn_text_cfg: Config = TEXT,
        norm_cfg: Config = LAYER_NORM,
        init_cfg: Any = None,
    ) -> None:
        super().__init__()
        self.self_attn = MultiheadAttention(**{**self_attn_cfg, "batch_first": True})
        self.cross_attn_text = MultiheadAttention(**{**cross_attn_text_cfg, "batch_first": True})
        self.cross_attn = MultiScaleDeformableAttention(**{**cross_attn_cfg, "batch_first": True})
        self.embed_dims = self.self_attn.embed_dims
        self.ffn = FFN(**ffn_cfg)
        self.norms = nn.ModuleList(build_norm(norm_cfg, self.embed_dims) for _ in range(4))

    def forward(
        self,
        query: Tensor,
        *,
        value: Tensor,
        query_pos: Tensor,
        key_padding_mask: Tensor | None,
        reference_points: Tensor,
        spatial_shapes: Sequence[tuple[int, int]],
        self_attn_mask: Tensor | None,
        memory_text: Tensor,
        words: Tensor,
    ) -> Tensor:
        """As DeformableDecoderLayer, with the text [B, T, C]; words [B, T], True = a token."""
        query = self.self_attn(
            query, query, query, query_pos=query_pos, key_pos=query_pos, attn_mask=self_attn_mask
        )
        query = self.norms[0](query)
        query = self.cross_attn_text(
            query + query_pos, memory_text, memory_text, query, key_padding_mask=~words
        )
        query = self.cross_attn(
            self.norms[1](query),
            value=value,
            query_pos=query_pos,
            key_padding_mask=key_padding_mask,
            reference_points=reference_points,
            spatial_shapes=spatial_shapes,
        )
        return self.norms[3](self.ffn(self.norms[2](query)))


class GroundingDinoTransformerDecoder(DinoTransformerDecoder):
    """DINO's decoder of such layers."""

    layer_class: ClassVar[type[Any]] = GroundingDinoDecoderLayer
