"""PagedContext: attention for many requests at once, whose new tokens are laid end to end.

The matrices of a step run over all T new tokens together; only attention takes the requests one
by one, each over its own keys (selective batching, Orca, OSDI 2022). There is no padding, so a
request's numbers do not depend on the lengths of its neighbors.

Letters: T new tokens of all requests, Q new tokens of one, K its tokens so far, N query heads,
D head size.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from cupola.generation.cache import BlockCache, BlockTable
from cupola.parallel import causal_mask


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
        slots = [slot for part in segments for slot in part.table.slots(part.past, part.length)]
        positions = [p for part in segments for p in range(part.past, part.length)]
        self.slots = torch.tensor(slots, device=device)  # [T]
        self.positions = torch.tensor(positions, device=device)  # [T]
        alibi = None
        if slopes is not None:
            keys = torch.arange(max(part.length for part in segments), device=device)
            alibi = slopes[:, None, None] * keys.float()  # [N, 1, longest]
        self.biases = [_bias(alibi, part, device, dtype) for part in segments]

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """[T, heads, D] each -> [T, N, D]."""
        self.cache.write(layer, self.slots, key, value)
        grouped = key.shape[1] != query.shape[1]
        mixed = torch.empty_like(query, memory_format=torch.contiguous_format)
        for part, bias in zip(self.segments, self.biases, strict=True):
            keys, values = self.cache.read(layer, part.table, part.length)  # [N, K, D]
            queries = query[part.start : part.stop].transpose(0, 1)  # [N, Q, D]
            out = F.scaled_dot_product_attention(
                queries[None], keys[None], values[None], bias, enable_gqa=grouped
            )
            mixed[part.start : part.stop] = out[0].transpose(0, 1)
        return mixed


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
