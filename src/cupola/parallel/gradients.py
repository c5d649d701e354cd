"""Means over the data-parallel ranks, and clipping by the gradient norm of the whole model."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from cupola import nn
from cupola.parallel.communicate import MAX, all_reduce
from cupola.parallel.groups import Group
from cupola.parallel.sharding import shard_dims

BUCKET = 1 << 22  # elements that are sent together


def mean_over_ranks(value: Tensor, data: Group) -> Tensor:
    """The mean of a tensor over the data ranks."""
    return all_reduce(value, data) / data.size


def average_gradients(parameters: Iterable[Tensor], data: Group) -> None:
    """Replaces every gradient by its mean over the data ranks; a missing one counts as zero."""
    if data.size == 1:
        return
    gradients = []
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        gradients.append(parameter.grad)
    for bucket in _buckets(gradients):
        mean = mean_over_ranks(torch.cat([g.flatten() for g in bucket]), data)
        for gradient, part in zip(
            bucket, torch.split(mean, [g.numel() for g in bucket]), strict=True
        ):
            gradient.copy_(part.view_as(gradient))


def clip_gradients(
    model: nn.Module, max_norm: float, group: Group, norm_type: float = 2.0
) -> Tensor:
    """Scales the gradients so that the norm over the whole model is at most `max_norm`.

    `group` holds the ranks of one copy of the model. A replicated parameter counts once, on the
    first rank. Returns the norm before clipping; the factor is max_norm / (norm + 1e-6), at most 1.
    """
    split = set(shard_dims(model))
    named = [(n, p.grad) for n, p in model.named_parameters() if p.grad is not None]
    counted = [g for n, g in named if n in split or group.rank == 0]
    norms = [torch.linalg.vector_norm(g.float(), norm_type) for g in counted]
    local = torch.stack(norms) if norms else torch.zeros(1)
    if norm_type == float("inf"):
        total = all_reduce(local.amax(), group, MAX)
    else:
        total = all_reduce(local.pow(norm_type).sum(), group).pow(1.0 / norm_type)
    factor = torch.clamp(max_norm / (total + 1e-6), max=1.0)
    for _, gradient in named:
        gradient.mul_(factor.to(gradient.dtype))
    return total


def _buckets(gradients: list[Tensor]) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    size = 0
    for gradient in gradients:
        if bucket and (size + gradient.numel() > BUCKET or gradient.dtype != bucket[0].dtype):
            yield bucket
            bucket, size = [], 0
        bucket.append(gradient)
        size += gradient.numel()
    if bucket:
        yield bucket
