"""Which parameters of a model are split over the tensor ranks, and which part a rank holds."""

from dataclasses import dataclass

import torch
from torch import Tensor

from cupola import nn
from cupola.parallel.embedding import padded_rows
from cupola.parallel.groups import Group


def shard_dims(model: nn.Module) -> dict[str, int]:
    """Parameter name -> the dimension along which it is split; replicated ones are absent."""
    found = {}
    for prefix, module in model.named_modules():
        dims = getattr(module, "shard_dims", {})
        for name, _ in module.named_parameters(recurse=False):
            if name in dims:
                found[f"{prefix}.{name}" if prefix else name] = dims[name]
    return found


def true_lengths(model: nn.Module) -> dict[str, int]:
    """Parameter name -> length without padding, for those that ranks may pad (vocabularies)."""
    found = {}
    for prefix, module in model.named_modules():
        for name, length in padded_rows(module).items():
            found[f"{prefix}.{name}" if prefix else name] = length
    return found


@dataclass(frozen=True)
class Cut:
    """Rows (or columns) `start` up to `stop` of a whole tensor, then zeros up to `length`."""

    start: int
    stop: int
    length: int


def cut(whole: int, rank: int, size: int) -> Cut:
    """The part of `whole` rows that `rank` of `size` holds: equal lengths, the last ones padded."""
    length = -(-whole // size)
    start = min(rank * length, whole)
    return Cut(start, min(start + length, whole), length)


def take(tensor: Tensor, dim: int, group: Group) -> Tensor:
    """This rank's part of a whole tensor along `dim`, padded with zeros if it does not divide."""
    part = cut(tensor.shape[dim], group.rank, group.size)
    local = tensor.narrow(dim, part.start, part.stop - part.start)
    missing = part.length - local.shape[dim]
    if not missing:
        return local.contiguous()
    shape = list(local.shape)
    shape[dim] = missing
    return torch.cat([local, local.new_zeros(shape)], dim)
