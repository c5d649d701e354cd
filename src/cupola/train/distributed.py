"""Data parallelism under torchrun: who this process is, and averaging over the ranks.

Gradients are averaged after the whole backward pass in one flat all-reduce per dtype. That needs no
wrapper around the model, so `loss` and `predict` stay what they are.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Ranks:
    """This process's number and how many there are."""

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes files and talks."""
        return self.rank == 0


def join_ranks() -> Ranks:
    """Joins the process group that torchrun's environment describes; alone without one."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Ranks()
    if not dist.is_initialized():
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    return Ranks(dist.get_rank(), dist.get_world_size())


def mean_over_ranks(values: Mapping[str, Tensor], ranks: Ranks) -> dict[str, Tensor]:
    """Every value's mean over the ranks."""
    if ranks.count == 1 or not values:
        return dict(values)
    joined = torch.stack([value.detach().float() for value in values.values()])
    dist.all_reduce(joined)
    return dict(zip(values, (joined / ranks.count).unbind(), strict=True))


def average_gradients(parameters: Sequence[Tensor], ranks: Ranks) -> None:
    """Replaces every gradient by its mean over the ranks; a missing one counts as zero."""
    if ranks.count == 1:
        return
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    gradients = [p.grad for p in parameters if p.grad is not None]
    for dtype in sorted({gradient.dtype for gradient in gradients}, key=str):
        mine = [gradient for gradient in gradients if gradient.dtype == dtype]
        flat = torch.cat([gradient.reshape(-1) for gradient in mine])
        dist.all_reduce(flat)
        parts = torch.split(flat / ranks.count, [gradient.numel() for gradient in mine])
        for gradient, part in zip(mine, parts, strict=True):
            gradient.copy_(part.view_as(gradient))


def same_start(tensors: Iterable[Tensor], ranks: Ranks) -> None:
    """Copies rank 0's tensors to all ranks."""
    if ranks.count > 1:
        for tensor in tensors:
            dist.broadcast(tensor.detach(), src=0)
