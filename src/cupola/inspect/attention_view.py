"""Attention weights of every layer and head, packed for the page."""

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


def attention_layers(seen: Mapping[str, Tensor], queries: Sequence[int]) -> dict[str, Any]:
    """The attentions of DETR's layers as inspect_detr returns them, those of chosen queries.

    cross [D, M, q, K], among [D, M, q, Q] and encoder [L, M, N, K] are packed; grid is (h, w),
    cells are the N cells, and boxes [D][Q] are corners in 0..1.
    """
    chosen = torch.tensor(queries, dtype=torch.long)
    corners = to_corners(seen["layer_boxes"])
    return {
        "grid": seen["grid"].tolist(),
        "cells": seen["cells"].tolist(),
        "cross": pack(seen["cross"][:, :, chosen]),
        "among": pack(seen["among"][:, :, chosen]),
        "encoder": pack(seen["encoder"]),
        "boxes": [[[round(v, 3) for v in box] for box in layer] for layer in corners.tolist()],
    }


def pack(weights: Tensor) -> dict[str, Any]:
    """Weights in bytes, relative to the largest of each row: {"shape", "bytes" in base64}."""
    most = weights.amax(-1, keepdim=True).clamp_min(1e-12)
    small = (weights / most * 255).round().to(torch.uint8)
    data = base64.b64encode(small.contiguous().numpy().tobytes()).decode()
    return {"shape": list(weights.shape), "bytes": data}


def to_corners(boxes: Tensor) -> Tensor:
    """cxcywh -> (left, top, right, bottom), [..., 4]."""
    center, size = boxes[..., :2], boxes[..., 2:]
    return torch.cat((center - size / 2, center + size / 2), -1)
