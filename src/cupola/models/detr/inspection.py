"""Cross-attention of DETR's last decoder layer, for `cupola explain`."""

from typing import Any

import torch
from torch import Tensor

from cupola.models.layers import ConditionalAttention
from cupola.models.set_prediction import class_scores


@torch.no_grad()
def inspect_detr(model: Any, pixels: Tensor) -> dict[str, Tensor]:
    """pixels [1, 3, H, W], normalized -> scores [Q, C], boxes [Q, 4] and attention [Q, h, w].

    Scores are in 0..1 and leave the background out; boxes are cxcywh in 0..1; attention is the mean
    over the heads and sums to 1 for each query.
    """
    training = model.training
    model.eval()
    decoder = model.bbox_head.transformer.decoder if model.nested else model.decoder
    layer = decoder.layers[-1]
    cross = layer.attentions[1] if hasattr(layer, "attentions") else layer.cross_attn
    weights: list[Tensor] = []
    if isinstance(cross, ConditionalAttention):
        handle = cross.register_forward_pre_hook(
            lambda attention, args: weights.append(attention.weights(*args[:5]))
        )
    else:
        handle = cross.attn.register_forward_pre_hook(
            lambda attention, args: weights.append(attention_weights(attention, *args[:2]))
        )
    try:
        features = model.extract(pixels)
        output = model.detect(features, None)
    finally:
        handle.remove()
        model.train(training)
    maps = torch.unflatten(weights[-1].mean(1)[0], -1, features.shape[-2:])  # [Q, h, w]
    scores = class_scores(output.logits[-1, 0], model.bbox_head.use_sigmoid)
    return {"scores": scores, "boxes": output.boxes[-1, 0], "attention": maps}


def attention_weights(attention: Any, query: Tensor, key: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d)) of an nn.MultiheadAttention: [B, heads, Q, K]."""
    if not attention.batch_first:
        query, key = query.transpose(0, 1), key.transpose(0, 1)
    C = query.shape[-1]
    weight, bias = attention.in_proj_weight, attention.in_proj_bias
    heads = attention.num_heads
    q = torch.nn.functional.linear(query, weight[:C], None if bias is None else bias[:C])
    k = torch.nn.functional.linear(
        key, weight[C : 2 * C], None if bias is None else bias[C : 2 * C]
    )
    q, k = (torch.unflatten(t, -1, (heads, -1)).transpose(1, 2) for t in (q, k))  # [B, heads, L, d]
    return (q @ k.transpose(-1, -2) / (C // heads) ** 0.5).softmax(-1)
