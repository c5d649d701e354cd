"""The collectives themselves, without autograd. Each is guarded, and a no-op at size 1."""

import torch
import torch.distributed as dist
from torch import Tensor

from cupola.parallel.groups import Group

SUM, MAX = dist.ReduceOp.SUM, dist.ReduceOp.MAX


def all_reduce(tensor: Tensor, group: Group, op: dist.ReduceOp.RedOpType = SUM) -> Tensor:
    """The sum (or maximum) over the ranks; the argument is not changed."""
    if group.size == 1:
        return tensor
    if group.fixed_order and op == SUM:
        return _ordered_sum(tensor, group)
    result = tensor.clone(memory_format=torch.contiguous_format)
    with group.guard("all_reduce"):
        dist.all_reduce(result, op, group.handle)
    return result


def start_all_reduce(tensor: Tensor, group: Group) -> tuple[Tensor, dist.Work | None]:
    """Starts summing `tensor` in place and returns at once; see `finish`."""
    if group.size == 1:
        return tensor, None
    if group.fixed_order:
        return _ordered_sum(tensor, group), None
    tensor = tensor.contiguous()
    with group.guard("all_reduce"):
        return tensor, dist.all_reduce(tensor, SUM, group.handle, async_op=True)


def finish(work: dist.Work | None, group: Group) -> None:
    """Waits for what `start_all_reduce` started."""
    if work is not None:
        with group.guard("all_reduce (waiting)"):
            work.wait()


def all_gather(tensor: Tensor, group: Group, dim: int) -> Tensor:
    """The ranks' tensors, all of one shape, joined along `dim` in the order of the ranks."""
    return tensor if group.size == 1 else torch.cat(gather_list(tensor, group), dim)


def gather_list(tensor: Tensor, group: Group, what: str = "all_gather") -> list[Tensor]:
    """The tensors of several ranks, all of one shape, in the order of the ranks."""
    tensor = tensor.contiguous()
    parts = [torch.empty_like(tensor) for _ in range(group.size)]
    with group.guard(what):
        dist.all_gather(parts, tensor, group.handle)
    return parts


def reduce_scatter(tensor: Tensor, group: Group, dim: int) -> Tensor:
    """This rank's slice along `dim` of the sum over the ranks."""
    if group.size == 1:
        return tensor
    if group.fixed_order:
        return own_slice(all_reduce(tensor, group), group, dim)
    moved = tensor.movedim(dim, 0).contiguous()
    result = moved.new_empty((group.share(moved.shape[0], "length"), *moved.shape[1:]))
    with group.guard("reduce_scatter"):
        dist.reduce_scatter_tensor(result, moved, SUM, group.handle)
    return result.movedim(0, dim)


def broadcast(tensor: Tensor, group: Group) -> Tensor:
    """Overwrites `tensor` with the first rank's, and returns it."""
    if group.size > 1:
        with group.guard("broadcast"):
            dist.broadcast(tensor, group.source, group.handle)
    return tensor


def barrier(group: Group) -> None:
    """Waits for every rank of the group."""
    if group.size > 1:
        with group.guard("barrier"):
            dist.barrier(group.handle)


def own_slice(tensor: Tensor, group: Group, dim: int) -> Tensor:
    """This rank's equal part of `tensor` along `dim`; ValueError if it does not divide."""
    length = group.share(tensor.shape[dim], "length")
    return tensor.narrow(dim, group.rank * length, length)


def _ordered_sum(tensor: Tensor, group: Group) -> Tensor:
    parts = gather_list(tensor, group, "all_reduce (fixed order)")
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total
