"""The prefix cache: what is found, kept and evicted, and texts equal to those without it."""

from typing import Any

import pytest
import torch

from cupola.generation import Heads, SamplingParams, Scheduler
from cupola.generation.cache import BLOCK, BlockCache
from cupola.models.bloom import BloomForCausalLM
from cupola.models.llama import LlamaForCausalLM
from deterministic_texts import deterministic

BEGINNING = [7 * i % 60 for i in range(3 * BLOCK + 5)]


def pool(blocks: int) -> BlockCache:
    return BlockCache([Heads(1, 1, 2)], blocks * BLOCK, dtype=torch.float32)


def filled(cache: BlockCache, tokens: list[int]) -> Any:
    table = cache.reserve_after(tokens, len(tokens) + 1, grows=False)
    assert table is not None
    table.length = len(tokens)
    cache.remember(table, tokens)
    return table


def test_full_blocks_are_shared_by_texts_that_begin_alike() -> None:
    cache = pool(16)
    first = filled(cache, BEGINNING)
    second = cache.reserve_after([*BEGINNING, 1, 2], 64, grows=False)
    assert second is not None and second.length == 3 * BLOCK
    assert second.blocks[:3] == first.blocks[:3] and second.blocks[3] != first.blocks[3]
    other = cache.reserve_after([9, *BEGINNING[1:]], 64, grows=False)
    assert other is not None and other.length == 0
    assert (cache.prefixes.looked_up, cache.prefixes.reused) == (3 * len(BEGINNING) + 2, 48)


def test_one_token_is_always_left_to_compute() -> None:
    cache = pool(8)
    filled(cache, BEGINNING[: 2 * BLOCK])
    again = cache.reserve_after(BEGINNING[: 2 * BLOCK], 40, grows=False)
    assert again is not None and again.length == BLOCK


def test_blocks_outlive_their_request_until_they_are_needed() -> None:
    cache = pool(8)
    old, new = BEGINNING, [x + 1 for x in BEGINNING]
    for tokens in (old, new):
        cache.release(filled(cache, tokens))
    assert cache.free_tokens == cache.capacity
    big = cache.reserve_after([3] * 20, 4 * BLOCK, grows=False)
    assert big is not None and big.blocks == [1, 2, 6, 7]
    assert len(cache.prefixes.find(new)[0]) == 3  # the older text was evicted first
    assert len(cache.prefixes.find(old)[0]) < 3
    assert cache.reserve_after([4] * 20, 5 * BLOCK, grows=False) is None
    cache.release(big)
    assert cache.free_tokens == cache.capacity


def test_blocks_in_use_are_not_evicted() -> None:
    cache = pool(4)
    cache.release(filled(cache, BEGINNING))
    table = cache.reserve_after(BEGINNING, 4 * BLOCK, grows=False)
    assert table is not None and table.length == 3 * BLOCK
    assert not cache.fits(1)
    assert cache.reserve_after(BEGINNING, 5 * BLOCK, grows=False) is None
    assert cache.prefixes.find(BEGINNING)[0] == table.blocks[:3]
    cache.release(table)
    assert cache.free_tokens == cache.capacity


def run(scheduler: Scheduler, prompts: list[list[int]]) -> tuple[list[list[int]], list[int]]:
    """Each text, one request after the other, and how many tokens of its prompt were reused."""
    found, reused = [], []
    for prompt in prompts:
        scheduler.add("x", prompt, SamplingParams(12, temperature=1.0, ignore_eos=True, seed=3))
        tokens = []
        while scheduler.active:
            tokens += scheduler.step()
        found.append([token.token_id for token in tokens])
        reused.append(tokens[0].reused)
    return found, reused


LLAMA = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}


@pytest.mark.parametrize("family", ["bloom", "llama", "deterministic"])
def test_texts_are_the_same_with_and_without(family: str) -> None:
    torch.manual_seed(0)
    model: Any = {
        "bloom": lambda: BloomForCausalLM(vocab_size=64, hidden_size=16, n_layer=2, n_head=2),
        "llama": lambda: LlamaForCausalLM(
            vocab_size=64, num_attention_heads=4, num_key_value_heads=2, **LLAMA
        ),
        "deterministic": lambda: deterministic("bloom"),
    }[family]()
    prompts = [[*BEGINNING, *rest] for rest in ([1], [2, 3], [], [1], [4] * 40)]
    prompts.append([*prompts[-1], 5, 6])  # as in a conversation
    plain, none = run(Scheduler(model, cache_tokens=512, prefix_cache=False), prompts)
    found, reused = run(Scheduler(model, cache_tokens=512), prompts)
    assert found == plain
    assert not any(none) and reused == [0, 48, 48, 48, 48, 80]


def test_a_small_cache_goes_on_evicting() -> None:
    torch.manual_seed(0)
    model = BloomForCausalLM(vocab_size=64, hidden_size=16, n_layer=1, n_head=2)
    prompts = [[first, *BEGINNING] for first in range(12)] * 2
    plain, _ = run(Scheduler(model, cache_tokens=512, prefix_cache=False), prompts)
    scheduler = Scheduler(model, cache_tokens=160)
    assert run(scheduler, prompts)[0] == plain
    assert scheduler.cache.free_tokens == scheduler.cache.capacity == 160


def test_a_prompt_whose_logprobs_are_wanted_is_computed() -> None:
    model = BloomForCausalLM(vocab_size=64, hidden_size=16, n_layer=1, n_head=2)
    scheduler, found = Scheduler(model, cache_tokens=256), []
    for _ in range(2):
        scheduler.add("x", BEGINNING, SamplingParams(1, prompt_logprobs=True))
        found += scheduler.step()
    assert [len(token.prompt) for token in found] == [len(BEGINNING) - 1] * 2
    assert found[1].reused == 0


def test_schedulers_share_nothing() -> None:
    model = BloomForCausalLM(vocab_size=64, hidden_size=16, n_layer=1, n_head=2)
    for _ in range(2):
        assert run(Scheduler(model, cache_tokens=256), [BEGINNING])[1] == [0]
