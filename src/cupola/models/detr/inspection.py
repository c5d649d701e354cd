"""Every attention of DETR on one image, for `cupola explain`.

Letters: L encoder layers, D decoder layers, M heads, Q queries, h x w = K cells of the feature map,
N of these cells as queries of the encoder.
"""

import math
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from cupola.models.layers import ConditionalAttention
from cupola.models.set_prediction import class_scores

MOST = 4_000_000  # attention weights of the encoder that are kept


@torch.no_grad()
def inspect_detr(model: Any, pixels: Tensor) -> dict[str, Tensor]:
    """pixels [1, 3, H, W], normalized -> what every layer predicted and attended to.

    scores [Q, C] in 0..1 without the background, and boxes [Q, 4], cxcywh in 0..1, of the last
    layer; logits [D, Q, C'] and layer_boxes [D, Q, 4] of all. Attention, each row of which sums to
    1: cross [D, M, Q, K], among [D, M, Q, Q] between queries, encoder [L, M, N, K] of the cells
    `cells` [N] (all of them, or a coarser grid where that would be too much); attention [Q, h, w]
    is the mean of the last cross-attention over its heads. grid [2] is (h, w).
    """
    transformer = model.bbox_head.transformer if model.nested else model
    kinds: dict[str, list[Tensor]] = {"encoder": [], "among": [], "cross": []}
    training = model.training
    model.eval()
    with ExitStack() as stack:
        stack.callback(model.train, training)
        features = model.extract(pixels)
        h, w = features.shape[-2:]
        encoder, decoder = transformer.encoder.layers, transformer.decoder.layers
        cells = cells_of_grid(h, w, len(encoder) * attentions(encoder[0])[0].num_heads)
        for layer in encoder:
            stack.callback(record(attentions(layer)[0], kinds["encoder"], cells))
        for layer in decoder:
            among, cross = attentions(layer)
            stack.callback(record(among, kinds["among"]))
            stack.callback(record(cross, kinds["cross"]))
        output = model.detect(features, None)
    weights = {name: torch.stack([each[0] for each in found]) for name, found in kinds.items()}
    return {
        "scores": class_scores(output.logits[-1, 0], model.bbox_head.use_sigmoid),
        "boxes": output.boxes[-1, 0],
        "attention": torch.unflatten(weights["cross"][-1].mean(0), -1, (h, w)),
        "logits": output.logits[:, 0],
        "layer_boxes": output.boxes[:, 0],
        **weights,
        "cells": cells,
        "grid": torch.tensor((h, w)),
    }


def attentions(layer: Any) -> list[Any]:
    """The attentions of a layer: self-attention, and cross-attention in a decoder."""
    if hasattr(layer, "attentions"):  # MMDetection 2.x
        return list(layer.attentions)
    return [layer.self_attn, *([layer.cross_attn] if hasattr(layer, "cross_attn") else [])]


def cells_of_grid(h: int, w: int, maps: int) -> Tensor:
    """Cells of the grid, evenly spread, so that `maps` rows for each stay below the limit; [N]."""
    step = math.ceil((maps * (h * w) ** 2 / MOST) ** 0.5)
    rows, columns = torch.arange(step // 2, h, step), torch.arange(step // 2, w, step)
    return (rows[:, None] * w + columns).flatten()


def record(attention: Any, found: list[Tensor], rows: Tensor | None = None) -> Callable[[], None]:
    """Adds the weights [B, M, Q, K] of each call to `found`, or these rows of them.

    Returns what ends the recording.
    """

    def of_conditional(module: Any, args: Any) -> None:
        found.append(module.weights(*args[:5]))

    def of_plain(module: Any, args: Any) -> None:
        query, key = args[:2]
        if rows is not None:
            query = query[:, rows] if module.batch_first else query[rows]
        found.append(attention_weights(module, query, key))

    if isinstance(attention, ConditionalAttention):
        handle = attention.register_forward_pre_hook(of_conditional)
    else:
        handle = attention.attn.register_forward_pre_hook(of_plain)
    return handle.remove


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
