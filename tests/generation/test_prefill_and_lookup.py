"""Prompts in chunks beside running texts, and tokens guessed from the text so far."""

from typing import Any

import pytest
import torch

from cupola.generation import SamplingParams, Scheduler
from cupola.generation.prefill_budget import FIRST, LEAST, PrefillBudget
from cupola.generation.prompt_lookup import guesses
from cupola.models.bloom import BloomForCausalLM
from cupola.runtime.predictors.language_stream import LanguageEngine, LanguageSample


def model(**options: Any) -> BloomForCausalLM:
    torch.manual_seed(0)
    sizes = {"vocab_size": 40, "hidden_size": 16, "n_layer": 1, "n_head": 2}
    return BloomForCausalLM(**sizes, **options)


def test_a_step_with_a_prompt_takes_as_long_as_two_without() -> None:
    budget = PrefillBudget(256)
    assert (budget.tokens(generating=False), budget.tokens(generating=True)) == (256, FIRST)
    budget.measured(2.56, generating=False, prefilled=256)  # 10 ms a token
    budget.measured(0.4, generating=True, prefilled=0)
    assert budget.tokens(generating=True) == 40
    for _ in range(40):
        budget.measured(0.1, generating=True, prefilled=0)
        budget.measured(0.2, generating=True, prefilled=20)  # 5 ms a token
    assert budget.tokens(generating=True) == pytest.approx(20, abs=1)
    for _ in range(40):
        budget.measured(0.001, generating=True, prefilled=0)
    assert budget.tokens(generating=True) == LEAST
    assert PrefillBudget(3).tokens(generating=True) == 3


def test_a_long_prompt_lets_others_go_on() -> None:
    scheduler = Scheduler(model(), cache_tokens=4096, chunk=256)
    scheduler.budget.step, scheduler.budget.token = 0.1, 0.005
    scheduler.budget.measured = lambda *_: None  # type: ignore[method-assign]
    scheduler.add("running", [1, 2], SamplingParams(1000, ignore_eos=True))
    scheduler.step()
    scheduler.add("long", [3] * 2000, SamplingParams(5))
    steps = 0
    while "long" not in (found := {token.request_id for token in scheduler.step()}):
        assert "running" in found  # a token in every step
        assert scheduler._running["long"].table.length <= 20 * (steps + 1)
        steps += 1
    assert steps == 2000 // 20 - 1


@pytest.mark.parametrize("prefill", [1, 9, 100])
def test_chunks_of_any_size_give_the_same_text(prefill: int) -> None:
    built, found = model(), []
    for limit in (256, prefill):
        scheduler = Scheduler(built, cache_tokens=512)
        scheduler.add("x", list(range(35)) * 3, SamplingParams(8, temperature=1.0, seed=1))
        scheduler.add("y", [1, 2, 3], SamplingParams(8, temperature=1.0, seed=2))
        tokens = []
        while scheduler.active:
            tokens += [(t.request_id, t.token_id) for t in scheduler.step(limit)]
        found.append(sorted(tokens, key=lambda pair: pair[0]))
    assert found[0] == found[1]


def test_guesses_are_what_followed_the_same_words() -> None:
    assert guesses([1, 2, 3, 4, 5, 1, 2], 3) == [3, 4, 5]
    assert guesses([1, 2, 9, 3, 1, 2, 8, 7, 1, 2], 2) == [8, 7]  # the latest place
    assert guesses([5, 1, 2, 9, 6, 1, 2, 8, 5, 1, 2], 1) == [9]  # the longest match
    assert guesses([1, 2, 3], 4) == guesses([1, 1], 4) == guesses([], 4) == []
    assert guesses([1, 1, 1], 4) == [1]


def all_of(scheduler: Scheduler) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    while scheduler.active:
        for token in scheduler.step():
            assert token.token_id is not None
            found.setdefault(token.request_id, []).append(token.token_id)
    return found


HOW: list[dict[str, Any]] = [
    {},
    {"repetition_penalty": 1.3},
    {"frequency_penalty": 0.5, "logprobs": True},
    {"stop_token_ids": (7,), "ignore_eos": False},
]


@pytest.mark.parametrize("how", HOW)
def test_lookup_gives_the_greedy_text_in_fewer_steps(how: dict[str, Any]) -> None:
    built, results = model(initializer_range=0.4), []
    for tokens in (0, 5):
        scheduler = Scheduler(built, cache_tokens=1024, lookup_tokens=tokens)
        for number in range(4):
            params = SamplingParams(**{"max_tokens": 60, "ignore_eos": True, **how})
            scheduler.add(str(number), [number, 3, 4, number, 3, 4], params)
        results.append((all_of(scheduler), scheduler.steps, scheduler.accepted))
    (plain, steps, none), (found, fewer, accepted) = results
    assert found == plain and none == 0
    if not how:
        assert accepted > 0 and fewer < steps


def test_sampled_texts_are_not_guessed_unless_deterministic() -> None:
    scheduler = Scheduler(model(), cache_tokens=256, lookup_tokens=4)
    scheduler.add("x", [1, 2] * 10, SamplingParams(20, temperature=1.0))
    all_of(scheduler)
    assert scheduler.guessed == 0


class Letters:
    def decode(self, ids: list[int]) -> str:
        return "".join(chr(48 + i) for i in ids)


def test_what_comes_after_a_stop_string_is_dropped() -> None:
    built, texts = model(initializer_range=0.4), []
    prompt = tuple([3, 4, 5] * 5)
    for tokens in (0, 6):
        engine = LanguageEngine(Scheduler(built, cache_tokens=256, lookup_tokens=tokens), Letters())
        plain = SamplingParams(40, ignore_eos=True)
        whole = "".join(text_of(engine, LanguageSample(prompt, plain)))
        stopped = LanguageSample(prompt, plain, (whole[10:12],))
        texts.append((whole, "".join(text_of(engine, stopped))))
    assert texts[0] == texts[1]
    assert len(texts[0][1]) < len(texts[0][0])


def text_of(engine: LanguageEngine, sample: LanguageSample) -> list[str]:
    engine.add("x", sample)
    pieces: list[str] = []
    while engine.active:
        pieces += [chunk.data["text"] for chunk in engine.step() if "text" in chunk.data]
    return pieces
