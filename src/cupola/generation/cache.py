"""BlockCache: keys and values of many requests in one pool, allocated in blocks of 16 tokens.

A block is a run of slots. A request owns a list of blocks, consecutive where the pool allows it, so
that its keys can be read as a view. Requests that begin with the same tokens share the blocks of
that beginning (prefix_cache.py).

Letters: N key-value heads on this rank, D head size.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from cupola.errors import InputError
from cupola.generation.prefix_cache import PrefixCache
from cupola.generation.protocol import Heads

BLOCK = 16


@dataclass
class BlockTable:
    """The blocks of one request, and how many of their slots are filled."""

    blocks: list[int] = field(default_factory=list)
    length: int = 0
    digests: list[bytes] = field(default_factory=list)  # of its full blocks

    @property
    def contiguous(self) -> bool:
        return self.blocks[-1] - self.blocks[0] == len(self.blocks) - 1

    @property
    def capacity(self) -> int:
        """How many tokens its blocks hold."""
        return len(self.blocks) * BLOCK

    def slots(self, start: int, stop: int) -> list[int]:
        """Pool slots of the tokens `start` up to `stop`."""
        return [self.blocks[t // BLOCK] * BLOCK + t % BLOCK for t in range(start, stop)]

    def runs(self, length: int) -> list[tuple[int, int]]:
        """Consecutive pool slots of the first `length` tokens: first slot and number of each."""
        found: list[tuple[int, int]] = []
        for block in self.blocks[: -(-length // BLOCK)]:
            if found and sum(found[-1]) == block * BLOCK:
                found[-1] = (found[-1][0], found[-1][1] + BLOCK)
            else:
                found.append((block * BLOCK, BLOCK))
        start, size = found[-1]
        return [*found[:-1], (start, size - -length % BLOCK)]


class BlockCache:
    """A pool for `tokens` tokens over all requests, with one pair of tensors for each layer.

    Memory is touched only as it is filled. With `factors`, each value has a factor beside it
    (exact_attention.py).
    """

    def __init__(
        self,
        layers: Sequence[Heads],
        tokens: int,
        *,
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
        factors: bool = False,
    ) -> None:
        self.blocks = -(-tokens // BLOCK)
        shapes = [(heads.key_value, self.blocks * BLOCK, heads.size) for heads in layers]
        self.keys = [torch.empty(shape, dtype=dtype, device=device) for shape in shapes]
        self.values = [torch.empty(shape, dtype=dtype, device=device) for shape in shapes]
        self.factors = [torch.empty(s[:2], dtype=dtype, device=device) for s in shapes if factors]
        self._free = set(range(self.blocks))
        self._users = [0] * self.blocks
        self.prefixes = PrefixCache(BLOCK)

    @property
    def capacity(self) -> int:
        """How many tokens the whole pool holds."""
        return self.blocks * BLOCK

    @property
    def free_tokens(self) -> int:
        """Tokens that could be reserved, those that are kept for later requests included."""
        return self._available * BLOCK

    @property
    def _available(self) -> int:
        return len(self._free) + len(self.prefixes.idle)

    def fits(self, tokens: int) -> bool:
        """Whether `reserve(tokens)` would succeed now."""
        return -(-tokens // BLOCK) <= self._available

    def reserve(self, tokens: int) -> BlockTable:
        """Allocates blocks for one request; InputError if the pool could never hold them."""
        wanted = -(-tokens // BLOCK)
        if wanted > self.blocks:
            raise InputError(f"{tokens} tokens exceed the cache, which holds {self.capacity}")
        assert wanted <= self._available, "call fits() first"
        return self._taken(self._choice_of(wanted))

    def reserve_growing(self, tokens: int) -> BlockTable:
        """As `reserve`, for a request that is extended later: in the middle of the largest gap.

        There it can grow in place, and so can the request before the gap.
        """
        wanted = -(-tokens // BLOCK)
        start, size = max(self._runs(), key=lambda run: run[1], default=(0, 0))
        if size < wanted:
            return self.reserve(tokens)
        start += (size - wanted) // 2 if start else 0
        return self._taken(range(start, start + wanted))

    def reserve_after(
        self, prompt: Sequence[int], tokens: int, *, grows: bool
    ) -> BlockTable | None:
        """As `reserve`, with the computed beginning of `prompt`, if any; None if it does not fit.

        At least one token of the prompt is left to compute.
        """
        shared, digests = self.prefixes.find(prompt)
        for block in shared:
            self._use(block)
        rest = tokens - len(shared) * BLOCK
        if not self.fits(rest):
            self._drop(shared)
            return None
        table = self.reserve_growing(rest) if grows else self.reserve(rest)
        table.blocks[:0], table.digests = shared, digests
        table.length = len(shared) * BLOCK
        self.prefixes.looked_up += len(prompt)
        self.prefixes.reused += table.length
        return table

    def remember(self, table: BlockTable, tokens: Sequence[int]) -> None:
        """Lets later requests use the blocks that are full now; `tokens` are the request's."""
        for number in range(len(table.digests), table.length // BLOCK):
            parent = table.digests[-1] if table.digests else b""
            part = tokens[number * BLOCK : (number + 1) * BLOCK]
            table.digests.append(self.prefixes.add(parent, part, table.blocks[number]))

    def extend(self, table: BlockTable, tokens: int) -> bool:
        """Adds blocks until the table holds `tokens`, or as many as are free. False if none is."""
        wanted = min(-(-tokens // BLOCK) - len(table.blocks), self._available)
        for _ in range(wanted):
            following = table.blocks[-1] + 1
            if not self._free:
                self._evict()
            block = following if following in self._free else min(self._free)
            table.blocks += self._taken([block]).blocks
        return wanted > 0

    def release(self, table: BlockTable) -> None:
        """Returns a request's blocks to the pool."""
        self._drop(table.blocks)
        table.blocks, table.length, table.digests = [], 0, []

    def write(
        self, layer: int, slots: Tensor, key: Tensor, value: Tensor, factor: Tensor | None = None
    ) -> None:
        """Stores [T, N, D] keys and values, and [T, N] factors, in T slots."""
        self.keys[layer].index_copy_(1, slots, key.transpose(0, 1))
        self.values[layer].index_copy_(1, slots, value.transpose(0, 1))
        if factor is not None:
            self.factors[layer].index_copy_(1, slots, factor.t())

    def read(self, layer: int, table: BlockTable, length: int) -> tuple[Tensor, Tensor]:
        """Keys and values [N, length, D] of a request: views if its blocks are consecutive."""
        runs = table.runs(length)
        return joined(self.keys[layer], runs), joined(self.values[layer], runs)

    def _taken(self, blocks: Sequence[int]) -> BlockTable:
        self._free.difference_update(blocks)
        for block in blocks:
            self._users[block] = 1
        return BlockTable(list(blocks))

    def _use(self, block: int) -> None:
        self._users[block] += 1
        self.prefixes.idle.pop(block, None)

    def _drop(self, blocks: Sequence[int]) -> None:
        for block in reversed(blocks):  # the end of a text is evicted before its beginning
            self._users[block] -= 1
            if not self._users[block] and not self.prefixes.keep(block):
                self._free.add(block)

    def _evict(self) -> None:
        self._free.add(self.prefixes.evict())

    def _choice_of(self, wanted: int) -> list[int]:
        """Free blocks: the first run that is long enough, or the longest runs together.

        As many blocks that no request uses are evicted as are needed, the oldest first.
        """
        while len(self._free) < wanted:
            self._evict()
        runs = list(self._runs())
        fitting = [run for run in runs if run[1] >= wanted]
        chosen: list[int] = []
        for start, size in fitting[:1] or sorted(runs, key=lambda run: -run[1]):
            chosen += range(start, start + min(size, wanted - len(chosen)))
        return sorted(chosen)

    def _runs(self) -> Iterator[tuple[int, int]]:
        """The free runs: first block and number of blocks."""
        size = 0
        for block in range(self.blocks + 1):
            if block in self._free:
                size += 1
            elif size:
                yield block - size, size
                size = 0


def joined(pool: Tensor, runs: Sequence[tuple[int, int]]) -> Tensor:
    """[N, slots, ...] -> the slots of the runs, one after the other; a view if it is one run."""
    parts = [pool.narrow(1, start, size) for start, size in runs]
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)
