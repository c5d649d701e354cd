"""PagedContext: attention for many requests at once, whose new tokens are laid end to end.

The matrices of a step run over all T new tokens together; only attention takes the requests one
by one, each over its own keys (selective batching, Orca, OSDI 2022). There is no padding, so a
request's numbers do not depend on the lengths of its neighbors.

Letters: T new tokens of all requests, Q new tokens of one, K its tokens so far, N query heads,
D head size.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from cupola.generation.cache import BlockCache, BlockTable, joined
from cupola.generation.exact_attention import as_whole, as_whole_below_one, exact_attention
from cupola.parallel import causal_mask

MOST_RUNS = 8  # of a table whose keys are read where they are; more are copied together


@dataclass(frozen=True)
class Segment:
    """One request's rows of a step, `start` up to `stop` of the T, and its blocks in the cache."""

    start: int
    stop: int
    table: BlockTable

    @property
    def past(self) -> int:
        return self.table.length

    @property
    def length(self) -> int:
        """Tokens so far, the new ones included."""
        return self.past + self.stop - self.start


class PagedContext:
    """Writes the step's keys and values to the cache and attends over each request's own."""

    def __init__(
        self, cache: BlockCache, segments: Sequence[Segment], slopes: Tensor | None = None
    ) -> None:
        """`slopes` are the ALiBi slopes [N], if the model has them."""
        self.cache, self.segments = cache, segments
        device, dtype = cache.keys[0].device, cache.keys[0].dtype
        self.slots, self.positions = places(segments, device)
        alibi = None
        if slopes is not None:
            keys = torch.arange(max(part.length for part in segments), device=device)
            alibi = slopes[:, None, None] * keys.float()  # [N, 1, longest]
        self.biases = [_bias(alibi, part, device, dtype) for part in segments]
        self.runs = [part.table.runs(part.length) for part in segments]  # for all layers

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """[T, heads, D] each -> [T, N, D]."""
        self.cache.write(layer, self.slots, key, value)
        all_keys, all_values = self.cache.keys[layer], self.cache.values[layer]
        grouped = key.shape[1] != query.shape[1]
        by_heads = query.transpose(0, 1)  # [N, T, D]
        mixed = []
        for part, bias, runs in zip(self.segments, self.biases, self.runs, strict=True):
            queries = by_heads[:, part.start : part.stop]  # [N, Q, D]
            if queries.shape[1] == 1 < len(runs) <= MOST_RUNS:
                mixed.append(self._over_runs(layer, queries, runs, bias))
                continue
            keys, values = joined(all_keys, runs), joined(all_values, runs)  # [N, K, D]
            mixed.append(
                F.scaled_dot_product_attention(
                    queries[None], keys[None], values[None], bias, enable_gqa=grouped
                )[0]
            )
        return (mixed[0] if len(mixed) == 1 else torch.cat(mixed, 1)).transpose(0, 1)

    def _over_runs(
        self, layer: int, query: Tensor, runs: list[tuple[int, int]], bias: Tensor | None
    ) -> Tensor:
        """One query [N, 1, D] over keys in several places, which are not copied together."""
        N, _, D = query.shape
        keys = [self.cache.keys[layer].narrow(1, *run) for run in runs]  # [G, K, D] each
        values = [self.cache.values[layer].narrow(1, *run) for run in runs]
        rows = query.reshape(len(keys[0]), -1, D)  # [G, N / G, D]
        scores = torch.cat([rows @ part.transpose(1, 2) for part in keys], -1) / math.sqrt(D)
        if bias is not None:
            scores = scores + bias[0].view(*scores.shape[:2], -1)
        sizes = [size for _, size in runs]
        weights = torch.split(scores.float().softmax(-1).to(query.dtype), sizes, -1)
        mixed = weights[0] @ values[0]
        for weight, part in zip(weights[1:], values[1:], strict=True):
            mixed = mixed + weight @ part
        return mixed.view(N, 1, D)


class ExactPagedContext:
    """As PagedContext; a query's numbers are the same in every batch, chunk and block."""

    def __init__(
        self, cache: BlockCache, segments: Sequence[Segment], slopes: Tensor | None = None
    ) -> None:
        self.cache, self.segments, self.slopes = cache, segments, slopes
        self.slots, self.positions = places(segments, cache.keys[0].device)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """[T, heads, D] each -> [T, N, D]."""
        cache, dtype = self.cache, self.cache.keys[layer].dtype
        values, factors = as_whole_below_one(value)
        cache.write(layer, self.slots, as_whole(key).to(dtype), values.to(dtype), factors.to(dtype))
        mixed = torch.empty_like(query, memory_format=torch.contiguous_format)
        for part in self.segments:
            keys, values = cache.read(layer, part.table, part.length)
            factors = joined(cache.factors[layer], part.table.runs(part.length))
            rows = slice(part.start, part.stop)
            mixed[rows] = exact_attention(
                query[rows], keys, values, factors, part.past, self.slopes
            )
        return mixed


def places(segments: Sequence[Segment], device: torch.device) -> tuple[Tensor, Tensor]:
    """Of each new token its slot [T] in the pool and its position [T] in its text."""
    slots = [slot for part in segments for slot in part.table.slots(part.past, part.length)]
    positions = [p for part in segments for p in range(part.past, part.length)]
    return torch.tensor(slots, device=device), torch.tensor(positions, device=device)


def _bias(
    alibi: Tensor | None, part: Segment, device: torch.device, dtype: torch.dtype
) -> Tensor | None:
    """[1, N or 1, Q or 1, K]: ALiBi, and -inf where a key lies in the future; None for zeros."""
    queries = part.stop - part.start
    if alibi is None and queries == 1:
        return None
    bias = torch.zeros(1, 1, part.length, device=device) if alibi is None else alibi
    bias = bias[:, :, : part.length]
    if queries > 1:
        bias = bias.masked_fill(causal_mask(queries, part.length, device), float("-inf"))
    return bias[None].to(dtype)
