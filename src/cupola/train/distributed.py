"""Data and tensor parallelism under torchrun: this process's share of the data and the model.

Gradients are averaged after the whole backward pass. That needs no wrapper around the model, so
`loss` and `predict` keep their form. With `parallel=dict(tensor=T)` in the config, T neighboring
ranks hold one copy of the model between them; with `parallel=dict(fsdp=True)` all ranks do, and
each gathers the parameters that it needs (`sharded.py`).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cupola.errors import CheckpointError
from cupola.parallel import SINGLE, Group, Mesh, broadcast


@dataclass(frozen=True)
class TrainingRanks:
    """The groups of this process: ranks that read other data, and ranks that share its model."""

    data: Group = SINGLE
    model: Group = SINGLE
    fsdp: bool = False  # whether the data ranks split the parameters between them

    @property
    def rank(self) -> int:
        """The index of the part of the data that this process reads."""
        return self.data.rank

    @property
    def count(self) -> int:
        """The number of parts of the data."""
        return self.data.size

    @property
    def first(self) -> bool:
        """Whether this process writes logs and prints."""
        return self.data.rank == 0 and self.model.rank == 0

    @property
    def leads(self) -> bool:
        """Whether this process holds the first copy of the model, or a part of it."""
        return self.data.rank == 0

    def file(self, name: str) -> str:
        """`name`, or for a split model the name of this rank's part: latest-0-of-2.pth."""
        if self.model.size == 1:
            return name
        stem, _, ending = name.rpartition(".")
        return f"{stem}-{self.model.rank}-of-{self.model.size}.{ending}"


def join_ranks(tensor: int = 1, fsdp: bool = False) -> TrainingRanks:
    """Joins the process group that torchrun's environment describes, if there is one."""
    mesh = Mesh.start(tensor=tensor)
    return TrainingRanks(mesh.data, mesh.model, fsdp and mesh.data.size > 1)


def same_start(tensors: Iterable[Tensor], ranks: TrainingRanks) -> None:
    """Broadcasts the tensors of the first copy of the model to the others."""
    for tensor in tensors:
        broadcast(tensor.detach(), ranks.data)


def check_same_step(step: int, ranks: TrainingRanks, device: Any = None) -> None:
    """CheckpointError unless this process is at the step of the first one.

    It is not if a run resumes whose folder is not shared by all nodes, or which was killed while
    the parts of a split model were being saved.
    """
    first = torch.tensor([step], device=device)
    broadcast(first, ranks.data)
    broadcast(first, ranks.model)
    if int(first) != step:
        raise CheckpointError(
            f"rank {ranks.data.rank} of the data, {ranks.model.rank} of the model: resumes at step "
            f"{step}, and the first rank at {int(first)}; all nodes need the same work_dir, with "
            "checkpoints of one step"
        )
