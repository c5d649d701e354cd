"""Cross entropy over logits whose vocabulary is split; the logits are never gathered.

Per token: m = max over ranks, Z = sum over ranks of exp(z - m), loss = log Z - (z_target - m).
Three small all-reduces of one number a token (Megatron-LM mpu/cross_entropy.py). The original
overwrites its logits; this version does not.
"""

from typing import Any

import torch
from torch import Tensor

from cupola.parallel.communicate import MAX, all_reduce
from cupola.parallel.groups import Group


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, group: Group) -> Tensor:
        width = logits.shape[-1]
        first = group.rank * width
        shifted = logits.float()
        shifted = shifted - all_reduce(shifted.amax(-1), group, MAX)[..., None]  # [..., V/P]
        elsewhere = (targets < first) | (targets >= first + width)
        local = (targets - first).masked_fill(elsewhere, 0)
        chosen = shifted.gather(-1, local[..., None])[..., 0].masked_fill(elsewhere, 0.0)  # [...]
        exponents = shifted.exp_()
        sums = torch.stack([exponents.sum(-1), chosen])
        total, target = all_reduce(sums, group)
        ctx.save_for_backward(exponents, total, local, elsewhere)
        ctx.dtype = logits.dtype
        return total.log() - target

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        exponents, total, local, elsewhere = ctx.saved_tensors
        result = exponents / total[..., None]  # the softmax, [..., V/P]
        ones = (~elsewhere).to(result.dtype)[..., None]
        result.scatter_add_(-1, local[..., None], -ones)
        return (result * grad[..., None]).to(ctx.dtype), None, None


def vocab_parallel_cross_entropy(logits: Tensor, targets: Tensor, group: Group) -> Tensor:
    """Loss per token [...], float32, from this rank's logits [..., V/P] and all targets [...]."""
    return _CrossEntropy.apply(logits, targets, group)  # type: ignore[no-untyped-call]
