"""PagedContext: attention for many requests at once, whose new tokens are laid end to end.

The matrices of a step run over all T new tokens together; only attention takes the requests one
by one, each over its own keys (selective batching, Orca, OSDI 2022). No padding exists, so no
request's numbers depend on how long its neighbors are.

Letters: T new tokens of all requests, Q new tokens of one, K its tokens so far, N heads, D size.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from cupola.generation.cache import BlockCache, Pages
from cupola.parallel import causal_mask


@dataclass(frozen=True)
class Segment:
    """One request's part of a step: rows `start` up to `stop` of the T, and where they belong."""

    start: int
    stop: int
    pages: Pages


class PagedContext:
    """Writes the step's keys and values to the cache and attends over each request's own."""

    def __init__(
        self, cache: BlockCache, segments: Sequence[Segment], slopes: Tensor, dtype: torch.dtype
    ) -> None:
        self.cache, self.segments = cache, segments
        slots = [s for part in segments for s in _new_slots(part)]
        self.slots = torch.tensor(slots, device=slopes.device)  # [T]
        longest = max(_length(part) for part in segments)
        steps = torch.arange(longest, device=slopes.device)
        alibi = slopes[:, None, None] * steps.float()  # [N, 1, longest]
        self.biases = [_bias(alibi, part).to(dtype) for part in segments]

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """[T, N, D] each -> [T, N, D]."""
        self.cache.write(layer, self.slots, key, value)
        mixed = torch.empty_like(query, memory_format=torch.contiguous_format)
        for part, bias in zip(self.segments, self.biases, strict=True):
            keys, values = self.cache.read(layer, part.pages, _length(part))  # [N, K, D]
            queries = query[part.start : part.stop].transpose(0, 1)  # [N, Q, D]
            out = F.scaled_dot_product_attention(queries[None], keys[None], values[None], bias)
            mixed[part.start : part.stop] = out[0].transpose(0, 1)
        return mixed


def _new_slots(part: Segment) -> list[int]:
    return part.pages.slots(part.pages.length, _length(part))


def _length(part: Segment) -> int:
    return part.pages.length + part.stop - part.start


def _bias(alibi: Tensor, part: Segment) -> Tensor:
    """[1, N, Q, K]: ALiBi, and -inf where a key lies in the future."""
    keys, queries = _length(part), part.stop - part.start
    bias = alibi[:, :, :keys]
    if queries > 1:
        bias = bias.masked_fill(causal_mask(queries, keys, alibi.device), float("-inf"))
    return bias[None]
