"""The block cache: what fits, where blocks lie, and what is refused."""

import pytest
import torch

from cupola.errors import InputError
from cupola.generation import Heads
from cupola.generation.cache import BLOCK, BlockCache


def pool(tokens: int) -> BlockCache:
    return BlockCache([Heads(4, 2, 3), Heads(2, 1, 5)], tokens, dtype=torch.float32)


def test_every_layer_has_room_for_its_own_heads() -> None:
    cache = pool(40)
    assert [tuple(keys.shape) for keys in cache.keys] == [(2, 48, 3), (1, 48, 5)]
    assert (cache.capacity, cache.free_tokens) == (48, 48)


def test_scattered_blocks_read_as_consecutive_ones_do() -> None:
    cache = pool(5 * BLOCK)
    first, second, third = (cache.reserve(BLOCK) for _ in range(3))
    cache.release(first)
    cache.release(third)
    table = cache.reserve(4 * BLOCK)  # blocks 0, 2, 3, 4
    assert not table.contiguous and second.contiguous
    key = torch.randn(3 * BLOCK, 2, 3)
    cache.write(0, torch.tensor(table.slots(0, 3 * BLOCK)), key, 2 * key)
    keys, values = cache.read(0, table, 3 * BLOCK)
    assert torch.equal(keys, key.transpose(0, 1)) and torch.equal(values, 2 * keys)
    assert not cache.fits(1)


def test_a_request_larger_than_the_pool_is_refused() -> None:
    with pytest.raises(InputError, match="33 tokens exceed the cache, which holds 32"):
        BlockCache([Heads(1, 1, 4)], 32, dtype=torch.float32).reserve(33)
