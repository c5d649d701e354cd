"""Collectives as autograd functions, in dual pairs: each one's backward is the other's forward.

| forward | backward |
|---|---|
| copy_to_ranks: identity | all-reduce |
| reduce_from_ranks: all-reduce | identity |
| scatter_to_ranks: this rank's slice | all-gather |
| gather_from_ranks: all-gather | this rank's slice |
| gather_sequence: all-gather | reduce-scatter |
| scatter_sequence_sum: reduce-scatter | all-gather |

Source: Megatron-LM mpu/mappings.py (arXiv 1909.08053), and for the last pair sequence
parallelism (arXiv 2205.05198). All are the identity at size 1.
"""

from typing import Any

import torch
from torch import Tensor

from cupola.parallel.communicate import all_gather, all_reduce, own_slice, reduce_scatter
from cupola.parallel.groups import Group


class _Copy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group) -> Tensor:
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return all_reduce(grad, ctx.group), None


class _Reduce(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group) -> Tensor:
        return all_reduce(x, group)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


class _Scatter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group, dim: int) -> Tensor:
        ctx.group, ctx.dim = group, dim
        return own_slice(x, group, dim).contiguous()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return all_gather(grad, ctx.group, ctx.dim), None, None


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group, dim: int) -> Tensor:
        ctx.group, ctx.dim = group, dim
        return all_gather(x, group, dim)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return own_slice(grad, ctx.group, ctx.dim).contiguous(), None, None


class _GatherSequence(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group, dim: int) -> Tensor:
        ctx.group, ctx.dim = group, dim
        return all_gather(x, group, dim)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return reduce_scatter(grad, ctx.group, ctx.dim), None, None


class _ScatterSequenceSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group, dim: int) -> Tensor:
        ctx.group, ctx.dim = group, dim
        return reduce_scatter(x, group, dim)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return all_gather(grad, ctx.group, ctx.dim), None, None


def copy_to_ranks(x: Tensor, group: Group) -> Tensor:
    """Enters a split region: every rank uses all of `x`, so its gradient is the ranks' sum."""
    return x if group.size == 1 else _Copy.apply(x, group)  # type: ignore[no-untyped-call]


def reduce_from_ranks(x: Tensor, group: Group) -> Tensor:
    """Leaves a split region: the sum of the ranks' partial results."""
    return x if group.size == 1 else _Reduce.apply(x, group)  # type: ignore[no-untyped-call]


def scatter_to_ranks(x: Tensor, group: Group, dim: int = -1) -> Tensor:
    """This rank's equal slice of `x` along `dim`; ValueError if it does not divide."""
    return x if group.size == 1 else _Scatter.apply(x, group, dim)  # type: ignore[no-untyped-call]


def gather_from_ranks(x: Tensor, group: Group, dim: int = -1) -> Tensor:
    """The ranks' slices joined along `dim`."""
    return x if group.size == 1 else _Gather.apply(x, group, dim)  # type: ignore[no-untyped-call]


def gather_sequence(x: Tensor, group: Group, dim: int = 1) -> Tensor:
    """Enters a tensor-parallel region from a sequence-parallel one."""
    return x if group.size == 1 else _GatherSequence.apply(x, group, dim)  # type: ignore[no-untyped-call]


def scatter_sequence_sum(x: Tensor, group: Group, dim: int = 1) -> Tensor:
    """Leaves a tensor-parallel region for a sequence-parallel one: a slice of the sum."""
    return x if group.size == 1 else _ScatterSequenceSum.apply(x, group, dim)  # type: ignore[no-untyped-call]
