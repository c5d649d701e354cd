"""BlockCache: keys and values of many requests in one pool, allocated in blocks of 16 tokens.

Letters: N key-value heads on this rank, D head size. A block is a run of slots. A request owns a
list of blocks, consecutive where the pool allows it, so that its keys can be read as a view.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from cupola.errors import InputError
from cupola.generation.protocol import Heads

BLOCK = 16


@dataclass
class BlockTable:
    """The blocks of one request, and how many of their slots are filled."""

    blocks: list[int] = field(default_factory=list)
    length: int = 0

    @property
    def capacity(self) -> int:
        """How many tokens the blocks hold."""
        return len(self.blocks) * BLOCK

    @property
    def contiguous(self) -> bool:
        return self.blocks[-1] - self.blocks[0] == len(self.blocks) - 1

    def slots(self, start: int, stop: int) -> list[int]:
        """Pool slots of the tokens `start` up to `stop`."""
        return [self.blocks[t // BLOCK] * BLOCK + t % BLOCK for t in range(start, stop)]


class BlockCache:
    """A pool for `tokens` tokens over all requests, with one pair of tensors for each layer.

    Memory is touched only as it is filled.
    """

    def __init__(
        self,
        layers: Sequence[Heads],
        tokens: int,
        *,
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
    ) -> None:
        self.blocks = -(-tokens // BLOCK)
        shapes = [(heads.key_value, self.blocks * BLOCK, heads.size) for heads in layers]
        self.keys = [torch.empty(shape, dtype=dtype, device=device) for shape in shapes]
        self.values = [torch.empty(shape, dtype=dtype, device=device) for shape in shapes]
        self._free = set(range(self.blocks))

    @property
    def capacity(self) -> int:
        """How many tokens the whole pool holds."""
        return self.blocks * BLOCK

    @property
    def free_tokens(self) -> int:
        return len(self._free) * BLOCK

    def fits(self, tokens: int) -> bool:
        """Whether `reserve(tokens)` would succeed now."""
        return -(-tokens // BLOCK) <= len(self._free)

    def reserve(self, tokens: int) -> BlockTable:
        """Allocates blocks for one request; InputError if the pool could never hold them."""
        wanted = -(-tokens // BLOCK)
        if wanted > self.blocks:
            raise InputError(f"{tokens} tokens exceed the cache, which holds {self.capacity}")
        assert wanted <= len(self._free), "call fits() first"
        start = self._run_of(wanted) if wanted else None
        chosen = range(start, start + wanted) if start is not None else sorted(self._free)[:wanted]
        self._free -= set(chosen)
        return BlockTable(list(chosen))

    def reserve_growing(self, tokens: int) -> BlockTable:
        """As `reserve`, for a request that is extended later: in the middle of the largest gap.

        There it can grow in place, and so can the request before the gap.
        """
        wanted = -(-tokens // BLOCK)
        start, size = max(self._runs(), key=lambda run: run[1], default=(0, 0))
        if size < wanted:
            return self.reserve(tokens)
        start += (size - wanted) // 2 if start else 0
        chosen = range(start, start + wanted)
        self._free -= set(chosen)
        return BlockTable(list(chosen))

    def extend(self, table: BlockTable, tokens: int) -> bool:
        """Adds blocks until the table holds `tokens`, or as many as are free. False if none is."""
        wanted = min(-(-tokens // BLOCK) - len(table.blocks), len(self._free))
        for _ in range(wanted):
            following = table.blocks[-1] + 1
            block = following if following in self._free else min(self._free)
            self._free.remove(block)
            table.blocks.append(block)
        return wanted > 0

    def release(self, table: BlockTable) -> None:
        """Returns a request's blocks to the pool."""
        self._free |= set(table.blocks)
        table.blocks, table.length = [], 0

    def write(self, layer: int, slots: Tensor, key: Tensor, value: Tensor) -> None:
        """Stores [T, N, D] keys and values in T slots."""
        self.keys[layer].index_copy_(1, slots, key.transpose(0, 1))
        self.values[layer].index_copy_(1, slots, value.transpose(0, 1))

    def read(self, layer: int, table: BlockTable, length: int) -> tuple[Tensor, Tensor]:
        """Keys and values [N, length, D] of a request: views if its blocks are consecutive."""
        keys, values = self.keys[layer], self.values[layer]
        if table.contiguous:
            start = table.blocks[0] * BLOCK
            return keys.narrow(1, start, length), values.narrow(1, start, length)
        index = torch.tensor(table.slots(0, length), device=keys.device)
        return keys.index_select(1, index), values.index_select(1, index)

    def _run_of(self, wanted: int) -> int | None:
        """The first block of the first free run that is long enough."""
        return next((start for start, size in self._runs() if size >= wanted), None)

    def _runs(self) -> Iterator[tuple[int, int]]:
        """The free runs: first block and number of blocks."""
        size = 0
        for block in range(self.blocks + 1):
            if block in self._free:
                size += 1
            elif size:
                yield block - size, size
                size = 0
