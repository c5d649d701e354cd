"""Data and tensor parallelism under torchrun: who this process is, and averaging over the ranks.

Gradients are averaged after the whole backward pass in one flat all-reduce per dtype. That needs no
wrapper around the model, so `loss` and `predict` stay what they are. With `parallel=dict(tensor=T)`
in the config, each T neighboring ranks hold one copy of the model between them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cupola.parallel import SINGLE, Group, Mesh, all_reduce, broadcast


@dataclass(frozen=True)
class Ranks:
    """This process's groups: those that read other data, and those that share its model."""

    data: Group = SINGLE
    model: Group = SINGLE

    @property
    def rank(self) -> int:
        """Which part of the data this process reads."""
        return self.data.rank

    @property
    def count(self) -> int:
        """Into how many parts the data is cut."""
        return self.data.size

    @property
    def first(self) -> bool:
        """Whether this process writes logs and talks."""
        return self.data.rank == 0 and self.model.rank == 0

    @property
    def leads(self) -> bool:
        """Whether this process holds a part of the first copy of the model."""
        return self.data.rank == 0

    def file(self, name: str) -> str:
        """`name`, or with a split model the name of this rank's part: latest-0-of-2.pth."""
        if self.model.size == 1:
            return name
        stem, _, ending = name.rpartition(".")
        return f"{stem}-{self.model.rank}-of-{self.model.size}.{ending}"


def join_ranks(tensor: int = 1) -> Ranks:
    """Joins the process group that torchrun's environment describes; alone without one."""
    mesh = Mesh.start(tensor=tensor)
    return Ranks(mesh.data, mesh.model)


def mean_over_ranks(values: Mapping[str, Tensor], ranks: Ranks) -> dict[str, Tensor]:
    """Every value's mean over the ranks."""
    if ranks.count == 1 or not values:
        return dict(values)
    joined = torch.stack([value.detach().float() for value in values.values()])
    joined = all_reduce(joined, ranks.data)
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
        flat = all_reduce(flat, ranks.data)
        parts = torch.split(flat / ranks.count, [gradient.numel() for gradient in mine])
        for gradient, part in zip(mine, parts, strict=True):
            gradient.copy_(part.view_as(gradient))


def same_start(tensors: Iterable[Tensor], ranks: Ranks) -> None:
    """Copies the tensors of the first copy of the model to the others."""
    for tensor in tensors:
        broadcast(tensor.detach(), ranks.data)
