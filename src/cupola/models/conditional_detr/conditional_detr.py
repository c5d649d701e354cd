"""Conditional DETR: what differs from DETR.

Every query has a reference point, computed from its learned position. The cross-attention compares
a query's content with the image's content and its reference point with the image's positions, and
boxes are predicted relative to the reference point. Classes are scored by sigmoid.

Letters: L decoder layers, B images, Q queries, K feature cells, C channels.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from cupola import nn
from cupola.models.detr import DETR, DETRHead, DETROutput, DetrTransformerDecoder
from cupola.models.detr.transformer import LAYER_NORM
from cupola.models.layers import (
    FFN,
    MLP,
    ConditionalAttention,
    build_norm,
    encode_references,
    inverse_sigmoid,
)
from cupola.registry import MODELS

Config = Mapping[str, Any]
PRIOR = 0.01  # the score of every class at the start of a training (arXiv 1708.02002, 4.1)


class ConditionalDetrTransformerDecoderLayer(nn.Module):
    """Conditional self-attention, conditional cross-attention, FFN; a norm after each."""

    def __init__(
        self,
        self_attn_cfg: Config,
        cross_attn_cfg: Config,
        ffn_cfg: Config,
        norm_cfg: Config = LAYER_NORM,
        init_cfg: Any = None,
    ) -> None:
        super().__init__()
        self.self_attn = ConditionalAttention(**self_attn_cfg)
        self.cross_attn = ConditionalAttention(**cross_attn_cfg)
        self.embed_dims = self.self_attn.embed_dims
        self.ffn = FFN(**ffn_cfg)
        self.norms = nn.ModuleList(build_norm(norm_cfg, self.embed_dims) for _ in range(3))

    def forward(
        self,
        x: Tensor,
        query_pos: Tensor,
        query_sine: Tensor,
        memory: Tensor,
        memory_pos: Tensor,
        key_padding_mask: Tensor | None,
        groups: int = 1,
    ) -> Tensor:
        """x, query_pos, query_sine [B, Q, C]; memory and memory_pos [B, K, C] -> [B, Q, C].

        With several groups, Q holds one after the other; queries attend only to their own group.
        """
        own, pos = (torch.unflatten(t, 1, (groups, -1)).flatten(0, 1) for t in (x, query_pos))
        x = self.norms[0](self.self_attn(own, own, pos, pos).reshape(x.shape))
        x = self.cross_attn(x, memory, query_pos, memory_pos, query_sine, key_padding_mask)
        return self.norms[2](self.ffn(self.norms[1](x)))


@MODELS.register_module()
class ConditionalDetrTransformerDecoder(DetrTransformerDecoder):
    """Layers that look around reference points; the final norm is applied to the output of each.

    `ref_point_head` computes the points from the queries' positions, `query_scale` from a layer's
    input the scale of each channel of the encoded points. With `pass_normed` a layer's input is the
    normed output of the one before, as transformers computes with `auxiliary_loss`.
    Source: mmdet/models/layers/transformer/conditional_detr_layers.py.
    """

    layer_class: ClassVar[type[Any]] = ConditionalDetrTransformerDecoderLayer

    def __init__(
        self, num_layers: int, layer_cfg: Config, pass_normed: bool = False, **settings: Any
    ) -> None:
        super().__init__(num_layers, layer_cfg, **settings)
        C = self.embed_dims
        self.pass_normed = pass_normed
        self.query_scale = MLP(C, C, C, 2)
        self.ref_point_head = MLP(C, C, 2, 2)
        for layer in self.layers[1:]:
            layer.cross_attn.qpos_proj = None

    def forward(  # type: ignore[override]  # it also returns the reference points
        self,
        query_pos: Tensor,
        memory: Tensor,
        memory_pos: Tensor,
        key_padding_mask: Tensor | None,
        groups: int = 1,
    ) -> tuple[Tensor, Tensor]:
        """query_pos [B, Q, C], memory [B, K, C] -> hidden [L, B, Q, C], references [B, Q, 2].

        References are (x, y) in 0..1.
        """
        references = self.ref_point_head(query_pos).sigmoid()
        encoded = encode_references(references, self.embed_dims // 2)  # [B, Q, C]
        x = torch.zeros_like(query_pos)
        outputs = []
        for i, layer in enumerate(self.layers):
            sine = encoded if i == 0 else encoded * self.query_scale(x)
            x = layer(x, query_pos, sine, memory, memory_pos, key_padding_mask, groups)
            if self.pass_normed:
                x = self.post_norm(x)
            outputs.append(x)
        if not self.return_intermediate:
            outputs = outputs[-1:]
        return self.post_norm(torch.stack(outputs)), references


@MODELS.register_module()
class ConditionalDETRHead(DETRHead):
    """DETR's head with boxes relative to reference points.

    Source: mmdet/models/dense_heads/conditional_detr_head.py.
    """

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        if self.use_sigmoid:
            nn.init.constant_(self.fc_cls.bias, inverse_sigmoid(torch.tensor(PRIOR)).item())

    def forward(self, hidden: Tensor, references: Tensor) -> DETROutput:  # type: ignore[override]
        """hidden [L, B, Q, C], normed; references [B, Q, 2] -> logits and boxes of every layer."""
        boxes = self.fc_reg(self.activate(self.reg_ffn(hidden)))  # [L, B, Q, 4]
        return DETROutput(self.fc_cls(hidden), around(references, boxes))


def around(references: Tensor, regression: Tensor, eps: float = 1e-5) -> Tensor:
    """Boxes [..., 4], cxcywh in 0..1: references [..., 2 or 4] added to a regression [..., 4]."""
    given = references.shape[-1]
    placed = regression[..., :given] + inverse_sigmoid(references, eps)
    return torch.cat((placed, regression[..., given:]), -1).sigmoid()


@MODELS.register_module()
class ConditionalDETR(DETR):
    """DETR with conditional cross-attention.

    Source: mmdet/models/detectors/conditional_detr.py.
    """

    nested_head = None
    decoder_class: ClassVar[type[Any]] = ConditionalDetrTransformerDecoder

    def detect(
        self, features: Tensor, padding: Tensor | None, last_only: bool = False
    ) -> DETROutput:
        """features [B, C, h, w], padding [B, h, w] -> DETROutput."""
        memory, pos = self.encode(features, padding)
        queries, groups = self.queries(memory.shape[0])
        mask = None if padding is None else padding.flatten(1)
        hidden, references = self.decoder(queries, memory, pos, mask, groups)
        return self.bbox_head(hidden[-1:] if last_only else hidden, references)
