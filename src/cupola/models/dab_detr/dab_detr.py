"""DAB-DETR: what differs from Conditional DETR.

A query's learned position is an anchor box (or a point). Every decoder layer encodes the current
anchor, attends with it, scaled by the anchor's width and height, and refines it. The encoder scales
its positions by its content.

Letters: L decoder layers, B images, G groups, P patterns, Q queries, K feature cells, C channels, A
numbers of an anchor: 4 (cx, cy, w, h) or 2 (x, y).
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from cupola import nn
from cupola.models.conditional_detr import ConditionalDETR, ConditionalDETRHead
from cupola.models.conditional_detr.conditional_detr import (
    ConditionalDetrTransformerDecoderLayer,
    around,
)
from cupola.models.detr import DETROutput, DetrTransformerDecoder, DetrTransformerEncoder
from cupola.models.layers import MLP, encode_references, inverse_sigmoid
from cupola.registry import MODELS

Config = Mapping[str, Any]
SCALE_TYPES = ("cond_elewise", "cond_scalar", "fix_elewise")


@MODELS.register_module()
class DABDetrTransformerEncoder(DetrTransformerEncoder):
    """DETR's encoder; `query_scale` computes a scale of the positions from each layer's input."""

    def __init__(self, num_layers: int, layer_cfg: Config, init_cfg: Any = None) -> None:
        super().__init__(num_layers, layer_cfg, init_cfg)
        self.query_scale = MLP(self.embed_dims, self.embed_dims, self.embed_dims, 2)

    def forward(self, x: Tensor, pos: Tensor, key_padding_mask: Tensor | None) -> Tensor:
        """x, pos [B, K, C] -> memory [B, K, C]."""
        for layer in self.layers:
            x = layer(x, pos * self.query_scale(x), key_padding_mask)
        return x if self.post_norm is None else self.post_norm(x)


@MODELS.register_module()
class DABDetrTransformerDecoder(DetrTransformerDecoder):
    """Layers that attend around anchors and refine them.

    query_dim: A. query_scale_type: how the encoded anchor is scaled: by channel (cond_elewise) or
    as a whole (cond_scalar) from the layer's input, or by channel with learned numbers
    (fix_elewise). with_modulated_hw_attn: whether the attention is also scaled by the ratio of the
    sides that `ref_anchor_head` computes to those of the anchor; needs A = 4.
    Source: mmdet/models/layers/transformer/dab_detr_layers.py; paper, equations 5 and 6.
    """

    layer_class: ClassVar[type[Any]] = ConditionalDetrTransformerDecoderLayer

    def __init__(
        self,
        num_layers: int,
        layer_cfg: Config,
        query_dim: int = 4,
        query_scale_type: str = "cond_elewise",
        with_modulated_hw_attn: bool = True,
        **settings: Any,
    ) -> None:
        super().__init__(num_layers, layer_cfg, **settings)
        if query_dim not in (2, 4):
            raise ValueError(f"query_dim is 4 (anchor boxes) or 2 (points), got {query_dim}")
        if query_scale_type not in SCALE_TYPES:
            raise ValueError(f"query_scale_type is one of {SCALE_TYPES}, got {query_scale_type!r}")
        if with_modulated_hw_attn and query_dim == 2:
            raise ValueError("with_modulated_hw_attn needs anchors with sides: query_dim=4")
        C = self.embed_dims
        self.query_dim = query_dim
        self.query_scale_type = query_scale_type
        self.with_modulated_hw_attn = with_modulated_hw_attn
        if query_scale_type == "fix_elewise":
            self.query_scale: Any = nn.Embedding(num_layers, C)
        else:
            self.query_scale = MLP(C, C, C if query_scale_type == "cond_elewise" else 1, 2)
        self.ref_point_head = MLP(query_dim // 2 * C, C, C, 2)
        if with_modulated_hw_attn:
            self.ref_anchor_head = MLP(C, C, 2, 2)
        for layer in self.layers[1:]:
            if not self.layers[0].cross_attn.keep_query_pos:
                layer.cross_attn.qpos_proj = None

    def forward(  # type: ignore[override]  # it takes contents and a regression, returns anchors
        self,
        x: Tensor,
        anchors: Tensor,
        memory: Tensor,
        memory_pos: Tensor,
        key_padding_mask: Tensor | None,
        regress: Callable[[Tensor], Tensor],
        groups: int = 1,
    ) -> tuple[Tensor, Tensor]:
        """x [B, Q, C], anchors [B, Q, A] before the sigmoid, memory and memory_pos [B, K, C].

        -> hidden [L, B, Q, C], normed, and the anchors in 0..1 that each layer began with
        [L, B, Q, A]. `regress` computes from a layer's output the step of the anchor.
        """
        anchors = anchors.sigmoid()
        outputs, begun = [], []
        for i, layer in enumerate(self.layers):
            begun.append(anchors)
            current = anchors.detach() if i else anchors  # no gradient from layer to layer
            encoded = encode_references(current, self.embed_dims // 2)  # [B, Q, A / 2 * C]
            sine = self._scaled(encoded[..., : self.embed_dims], x, current, i)
            pos = self.ref_point_head(encoded)  # [B, Q, C]
            x = layer(x, pos, sine, memory, memory_pos, key_padding_mask, groups)
            outputs.append(x)
            if i + 1 < len(self.layers):
                step = regress(x)[..., : self.query_dim]
                anchors = (step + inverse_sigmoid(current)).sigmoid()
        if not self.return_intermediate:
            outputs, begun = outputs[-1:], begun[-1:]
        return self.post_norm(torch.stack(outputs)), torch.stack(begun)

    def _scaled(self, sine: Tensor, x: Tensor, anchors: Tensor, index: int) -> Tensor:
        """The encoded centers [B, Q, C], y first, as the cross-attention of a layer takes them."""
        if self.query_scale_type == "fix_elewise":
            sine = sine * self.query_scale.weight[index]
        elif index > 0:
            sine = sine * self.query_scale(x)
        if self.with_modulated_hw_attn:
            ratios = self.ref_anchor_head(x).sigmoid() / anchors[..., 2:]  # [B, Q, 2], w and h
            sine = sine * ratios.flip(-1).repeat_interleave(self.embed_dims // 2, -1)
        return sine


@MODELS.register_module()
class DABDETRHead(ConditionalDETRHead):
    """Conditional DETR's head with one MLP for the boxes, which the decoder uses as well.

    `reference_eps` bounds the anchors away from 0 and 1 (transformers: 1e-5).
    Source: mmdet/models/dense_heads/dab_detr_head.py.
    """

    def __init__(self, *args: Any, reference_eps: float = 1e-3, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.reference_eps = reference_eps

    def build_regression(self, embed_dims: int, num_reg_fcs: int) -> None:
        self.fc_reg = MLP(embed_dims, embed_dims, 4, 3)
        nn.init.zeros_(self.fc_reg.layers[-1].weight)
        nn.init.zeros_(self.fc_reg.layers[-1].bias)

    def forward(self, hidden: Tensor, references: Tensor) -> DETROutput:  # type: ignore[override]
        """hidden [L, B, Q, C], normed; references [L, B, Q, A] -> logits and boxes."""
        boxes = around(references, self.fc_reg(hidden), self.reference_eps)
        return DETROutput(self.fc_cls(hidden), boxes)


@MODELS.register_module()
class DABDETR(ConditionalDETR):
    """DETR with anchor boxes as queries.

    With `num_patterns` P > 0 each anchor is a query P times, with one learned content each.
    `with_random_refpoints` begins with uniformly distributed centers; they are trained like all
    others, as the original's attempt to freeze them has no effect.
    Source: mmdet/models/detectors/dab_detr.py.
    """

    encoder_class: ClassVar[type[Any]] = DABDetrTransformerEncoder
    decoder_class: ClassVar[type[Any]] = DABDetrTransformerDecoder

    def __init__(
        self,
        *args: Any,
        with_random_refpoints: bool = False,
        num_patterns: int = 0,
        **settings: Any,
    ) -> None:
        super().__init__(*args, **settings)
        self.num_patterns = num_patterns
        if num_patterns > 0:
            self.patterns = nn.Embedding(num_patterns, self.decoder.embed_dims)
        if with_random_refpoints:
            anchors = nn.init.uniform_(self.query_embedding.weight)
            with torch.no_grad():
                anchors[:, :2] = inverse_sigmoid(anchors[:, :2])

    @property
    def query_dims(self) -> int:
        return int(self.decoder.query_dim)

    def detect(
        self, features: Tensor, padding: Tensor | None, last_only: bool = False
    ) -> DETROutput:
        """features [B, C, h, w], padding [B, h, w] -> DETROutput."""
        memory, pos = self.encode(features, padding)
        anchors, groups = self.queries(memory.shape[0])
        contents, anchors = self._with_patterns(anchors, groups)
        mask = None if padding is None else padding.flatten(1)
        regress = self.bbox_head.fc_reg
        decoded = self.decoder(contents, anchors, memory, pos, mask, regress, groups)
        return self.bbox_head(*(each[-1:] if last_only else each for each in decoded))

    def _with_patterns(self, anchors: Tensor, groups: int) -> tuple[Tensor, Tensor]:
        """The queries' contents [B, G * P * Q, C], and the anchors of each."""
        B, C = anchors.shape[0], self.decoder.embed_dims
        if self.num_patterns == 0:
            return anchors.new_zeros(B, anchors.shape[1], C), anchors
        Q = anchors.shape[1] // groups
        anchors = anchors.reshape(B, groups, 1, Q, -1).expand(-1, -1, self.num_patterns, -1, -1)
        contents = self.patterns.weight[:, None].expand(B, groups, -1, Q, -1)
        return contents.flatten(1, 3), anchors.flatten(1, 3)
