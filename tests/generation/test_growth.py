"""Reservations that grow with their texts: admission, preemption, and the same texts as alone."""

import pytest
import torch

from cupola.generation import Heads, SamplingParams, Scheduler
from cupola.generation.cache import BLOCK, BlockCache
from cupola.generation.sequence import GROWTH
from cupola.models.bloom import BloomForCausalLM
from cupola.runtime.predictors import language_stream

LONG = GROWTH * 2


def model() -> BloomForCausalLM:
    torch.manual_seed(0)
    return BloomForCausalLM(vocab_size=64, hidden_size=16, n_layer=1, n_head=2, eos_token_id=63)


def how(seed: int, tokens: int = LONG) -> SamplingParams:
    return SamplingParams(max_tokens=tokens, temperature=1.0, seed=seed, ignore_eos=True)


def drain(scheduler: Scheduler) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for _ in range(100_000):
        for token in scheduler.step():
            assert token.token_id is not None
            found.setdefault(token.request_id, []).append(token.token_id)
        if not scheduler.active:
            return found
    raise AssertionError("it does not end")


def test_requests_for_the_whole_cache_run_side_by_side() -> None:
    scheduler = Scheduler(model(), cache_tokens=1024)
    for name in "abc":
        scheduler.add(name, [1, 2], how(0, 1022))
    assert {token.request_id for token in scheduler.step()} == {"a", "b", "c"}


@pytest.mark.parametrize("cache_tokens", [LONG + 2 * BLOCK, LONG + 160, 3 * LONG])
def test_all_come_to_their_end_with_the_texts_that_they_have_alone(cache_tokens: int) -> None:
    built = model()
    alone = {}
    for seed, name in enumerate("abcd"):
        scheduler = Scheduler(built, cache_tokens=LONG + 32)
        scheduler.add(name, [1, 2, seed], how(seed))
        alone |= drain(scheduler)
    together = Scheduler(built, cache_tokens=cache_tokens)
    for seed, name in enumerate("abcd"):
        together.add(name, [1, 2, seed], how(seed))
    assert drain(together) == alone
    assert together.cache.free_tokens == together.cache.capacity and not together.preempted


def test_the_last_to_arrive_is_preempted_and_is_the_next_to_go_on() -> None:
    scheduler = Scheduler(model(), cache_tokens=2 * GROWTH + 2 * BLOCK)
    for name, seed in (("first", 1), ("second", 2)):
        scheduler.add(name, [1], how(seed, GROWTH + 100))
    while not scheduler.preempted:
        scheduler.step()
    assert scheduler.preempted == ["second"]
    scheduler.add("third", [1], how(3, 4))
    ends = []
    while scheduler.active:
        ends += [token.request_id for token in scheduler.step() if token.finish_reason]
    assert ends[0] == "first"


def test_the_logprobs_of_a_prompt_survive_a_preemption() -> None:
    built = model()
    prompt = torch.randint(0, 60, (100,), generator=torch.Generator().manual_seed(1)).tolist()
    reads = SamplingParams(max_tokens=1, prompt_logprobs=True, logprobs=True)
    expected = Scheduler(built, cache_tokens=512)
    expected.add("x", prompt, reads)
    (token,) = expected.step()
    scheduler = Scheduler(built, cache_tokens=GROWTH + 16 * BLOCK, chunk=10)
    scheduler.add("old", [1], how(0, GROWTH + 8 * BLOCK))
    scheduler.add("x", prompt, reads)
    for _ in range(3):
        scheduler.step()
    assert scheduler._running["x"].prompt_logprobs
    scheduler._preempt("x")
    found = []
    while not found:
        found = [token for token in scheduler.step() if token.request_id == "x"]
    assert [p[0] for p in found[0].prompt] == pytest.approx([p[0] for p in token.prompt], abs=1e-5)


def test_growing_tables_lie_where_they_can_grow() -> None:
    cache = BlockCache([Heads(1, 1, 2)], 64 * BLOCK, dtype=torch.float32)
    first, second = cache.reserve_growing(BLOCK), cache.reserve_growing(BLOCK)
    for table in (first, second):
        assert cache.extend(table, 25 * BLOCK) and table.contiguous
    third = cache.reserve_growing(BLOCK)
    assert cache.extend(third, 64 * BLOCK) and not cache.extend(third, 64 * BLOCK)
    assert sorted(first.blocks + second.blocks + third.blocks) == list(range(64))
    for table in (first, second, third):
        cache.release(table)
    assert cache.free_tokens == cache.capacity


class Letters:
    def decode(self, ids: list[int]) -> str:
        return "".join(chr(48 + i) for i in ids)


def test_a_preempted_stream_is_reported_so_that_nobody_gives_it_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(language_stream, "REPORT", 0.0)
    engine = language_stream.LanguageEngine(
        Scheduler(model(), cache_tokens=2 * GROWTH + 2 * BLOCK), Letters()
    )
    for name in ("first", "second"):
        engine.add(name, language_stream.LanguageSample((1,), how(1, GROWTH + 100)))
    reports = []
    while engine.active:
        reports += [chunk for chunk in engine.step() if chunk.data.get("waiting")]
    assert {chunk.request_id for chunk in reports} == {"second"}
    assert not any(chunk.final for chunk in reports)
