"""scale_mask_softmax: softmax(scale * x) under a causal or padding mask, computed in float32.

The fused way writes one result tensor and has its own backward; the plain way is a chain of torch
operations. They agree, and a row that is wholly masked is zero in both (Megatron-DeepSpeed's
fused_softmax.py gives such a row a uniform distribution on one path and NaN on the other).
"""

from typing import Any

import torch
from torch import Tensor


def causal_mask(queries: int, keys: int, device: torch.device) -> Tensor:
    """[Q, K] bool, True where key j lies in the future of query i; the last queries align."""
    rows = torch.arange(keys - queries, keys, device=device)
    return torch.arange(keys, device=device)[None, :] > rows[:, None]


class _ScaleMaskSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, mask: Tensor | None, scale: float) -> Tensor:
        work = x.to(torch.float32, copy=True).mul_(scale)
        if mask is not None:
            work.masked_fill_(mask, float("-inf"))
        work -= work.amax(-1, keepdim=True).nan_to_num_(neginf=0.0)
        work.exp_()
        total = work.sum(-1, keepdim=True)
        work /= total.masked_fill_(total == 0, 1.0)  # a wholly masked row stays zero
        result = work.to(x.dtype)
        ctx.save_for_backward(result)
        ctx.scale = scale
        return result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        (result,) = ctx.saved_tensors
        y, g = result.float(), grad.float()
        inner = (y * g).sum(-1, keepdim=True)
        return (y * (g - inner)).mul_(ctx.scale).to(grad.dtype), None, None


def scale_mask_softmax(
    x: Tensor, mask: Tensor | None = None, scale: float = 1.0, *, fused: bool = True
) -> Tensor:
    """Probabilities over the last dimension, in the dtype of `x`.

    `mask` is bool, True where attention is forbidden, and broadcasts to `x`.
    """
    if fused:
        return _ScaleMaskSoftmax.apply(x, mask, scale)
    work = x.float() * scale
    if mask is None:
        return work.softmax(-1).to(x.dtype)
    work = work.masked_fill(mask, torch.finfo(torch.float32).min).softmax(-1)
    return work.masked_fill(mask, 0.0).to(x.dtype)
