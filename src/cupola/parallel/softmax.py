"""scale_mask_softmax: softmax(scale * x) under a causal or padding mask, computed in float32.

The fused way writes one result tensor and has its own backward; the plain way is a chain of torch
operations, and they agree. A row that is wholly masked (the queries of left padding) becomes the
uniform distribution in both, which is what transformers and the plain path of Megatron-DeepSpeed's
fused_softmax.py make of it; a kernel that fills with -inf would make it NaN. Its gradient is that
of an added mask, as in transformers.
"""

from typing import Any

import torch
from torch import Tensor

LOWEST = torch.finfo(torch.float32).min


def causal_mask(queries: int, keys: int, device: torch.device) -> Tensor:
    """[Q, K] bool, True where key j lies in the future of query i; the last queries align."""
    rows = torch.arange(keys - queries, keys, device=device)
    return torch.arange(keys, device=device)[None, :] > rows[:, None]


class _ScaleMaskSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, mask: Tensor | None, scale: float) -> Tensor:
        work = x.to(torch.float32, copy=True).mul_(scale)
        if mask is not None:
            work.masked_fill_(mask, LOWEST)
        work -= work.amax(-1, keepdim=True)
        work.exp_()
        work /= work.sum(-1, keepdim=True)
        result = work.to(x.dtype)
        ctx.save_for_backward(result)
        ctx.scale = scale
        return result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
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
        return _ScaleMaskSoftmax.apply(x, mask, scale)  # type: ignore[no-untyped-call]
    work = x.float() * scale
    if mask is not None:
        work = work + torch.zeros_like(work).masked_fill_(mask, LOWEST)
    return work.softmax(-1).to(x.dtype)
