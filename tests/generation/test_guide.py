"""Guides: texts follow their grammars, go on where they were, and fail alone."""

import re
from typing import Any

import pytest

from cupola.data.text import train_tokenizer
from cupola.errors import InputError
from cupola.generation import SamplingParams, Scheduler
from cupola.generation.guide import Guides
from cupola.models.bloom import BloomForCausalLM
from language_toys import LINES, MODEL

REGEX = "start: /[a-c]{20}-[0-9]+/"


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train_tokenizer(LINES, 300)


def scheduler(tokenizer: Any, **changes: Any) -> Scheduler:
    import torch

    torch.manual_seed(0)
    settings = {**MODEL, **changes}
    model = BloomForCausalLM(**{k: v for k, v in settings.items() if k != "type"})
    guides = Guides(tokenizer, model.settings.end_token_ids)
    return Scheduler(model, cache_tokens=512, guides=guides)


def drain(engine: Scheduler) -> list[Any]:
    found = []
    while engine.active:
        found += engine.step()
    return found


def how(grammar: str, seed: int = 1, tokens: int = 60) -> SamplingParams:
    return SamplingParams(max_tokens=tokens, temperature=1.0, seed=seed, grammar=grammar)


@pytest.mark.parametrize("ends", [2, None, 1000])
def test_a_text_follows_its_grammar_and_goes_on_elsewhere(tokenizer: Any, ends: Any) -> None:
    engine = scheduler(tokenizer, eos_token_id=ends)
    engine.add("x", [40, 41], how(REGEX))
    ids = [token.token_id for token in drain(engine)]
    text = tokenizer.decode([token for token in ids if token != ends])
    assert re.fullmatch("[a-c]{20}-[0-9]+", text)
    other = scheduler(tokenizer, eos_token_id=ends)
    other.add("x", [40, 41], how(REGEX), ids[:7])
    assert ids[:7] + [token.token_id for token in drain(other)] == ids


def test_ids_beyond_the_tokenizer_are_never_chosen(tokenizer: Any) -> None:
    engine = scheduler(tokenizer, vocab_size=320)
    for seed in range(3):
        engine.add(str(seed), [40], how("start: /(.|\\n)+/", seed))
    assert max(token.token_id for token in drain(engine)) < 300


def test_a_grammar_that_fails_ends_its_request_alone(tokenizer: Any) -> None:
    engine = scheduler(tokenizer)
    engine.add("good", [40], how("start: /b{3}/"))
    engine.add("bad", [40], how("start: /(a{1000}){1000}/"))  # reaches a limit after a token
    tokens = drain(engine)
    (failed,) = [token for token in tokens if token.error]
    assert failed.request_id == "bad" and "too many" in failed.error
    assert [t.token_id for t in tokens if t.request_id == "good"][-1] is not None


def test_a_greedy_text_follows_its_grammar_despite_the_shortlist(tokenizer: Any) -> None:
    engine = scheduler(tokenizer)
    engine.add("x", [40], SamplingParams(max_tokens=9, grammar='start: "abc"'))
    assert tokenizer.decode([token.token_id for token in drain(engine)]) == "abc"
    with pytest.raises(InputError, match="no tokenizer"):
        Scheduler(engine.model, cache_tokens=64).add("x", [1], how("start: /a/"))
    with pytest.raises(InputError, match="unclosed group"):
        engine.add("y", [40], how("start: /(a/"))
