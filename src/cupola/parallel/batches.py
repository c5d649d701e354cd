"""broadcast_batch: the first tensor rank reads the data, the others receive it."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from cupola.parallel.communicate import broadcast
from cupola.parallel.groups import Group


def broadcast_batch(batch: dict[str, Tensor] | None, group: Group) -> dict[str, Tensor]:
    """The batch of the group's first rank, on every rank; the others may pass None.

    Shapes and dtypes are sent first, then the tensors, so the other ranks need not know them.
    """
    if group.size == 1:
        assert batch is not None
        return batch
    header: list[Any] = [None]
    if group.rank == 0:
        assert batch is not None
        header = [{name: (tuple(t.shape), t.dtype) for name, t in batch.items()}]
    with group.guard("broadcast (batch header)"):
        dist.broadcast_object_list(header, group.source, group.handle)
    received = {}
    for name, (shape, dtype) in header[0].items():
        mine = batch[name].contiguous() if group.rank == 0 and batch else None
        received[name] = broadcast(torch.empty(shape, dtype=dtype) if mine is None else mine, group)
    return received
