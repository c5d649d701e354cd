"""LLaMA, Mistral and Qwen2 against transformers, live, on random tiny configs."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from llama_cases import CASES, ragged, save

from cupola.generation import DenseCache, SamplingParams, Scheduler
from cupola.generation.dense_attention import positions
from cupola.registry import build
from cupola.weights import load_weights


@pytest.fixture(params=CASES)
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Any, Any]:
    """transformers' model and ours, loaded from the folder that transformers wrote."""
    theirs = save(request.param, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    ours = build({"type": config["architectures"][0], **config})
    load_weights(ours, tmp_path)
    return theirs, ours.eval()


def test_logits_loss_and_gradients(pair: tuple[Any, Any]) -> None:
    theirs, ours = pair
    batch = ragged(ours.settings.vocab_size)
    # The position of padding matters to its own gradients only, and there the two differ.
    expected = theirs(**batch, position_ids=positions(batch["attention_mask"]))
    logits = ours(batch["input_ids"], batch["attention_mask"])
    real = batch["attention_mask"] == 1
    assert (logits - expected.logits)[real].abs().max() < 2e-5
    loss = ours.loss(batch)["loss"]
    assert abs(float(loss.detach()) - float(expected.loss.detach())) < 1e-5
    loss.backward()
    expected.loss.backward()
    gradients = {name: parameter.grad for name, parameter in ours.named_parameters()}
    for name, parameter in theirs.named_parameters():
        scale = float(parameter.grad.abs().max().clamp(min=1e-3))
        assert (gradients[name] - parameter.grad).abs().max() < 1e-4 * scale, name


def greedy(theirs: Any, ids: list[int], count: int) -> list[int]:
    prompt = torch.tensor([ids])
    found = theirs.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),  # else a 0 in the prompt counts as padding
        max_new_tokens=count,
        do_sample=False,
        pad_token_id=0,
    )
    tokens: list[int] = found[0, len(ids) :].tolist()
    return tokens


@pytest.mark.parametrize("chunk", [4, 256])
def test_greedy_ids_of_requests_that_come_and_go(pair: tuple[Any, Any], chunk: int) -> None:
    theirs, ours = pair
    generator = torch.Generator().manual_seed(0)
    prompts = {
        name: torch.randint(0, 67, (size,), generator=generator).tolist()
        for name, size in {"a": 3, "b": 21, "c": 9, "d": 1}.items()
    }
    scheduler = Scheduler(ours, cache_tokens=160, chunk=chunk)
    found: dict[str, list[int]] = {name: [] for name in prompts}
    for name, prompt in prompts.items():  # each joins one step after the last
        scheduler.add(name, prompt, SamplingParams(max_tokens=14))
        for token in scheduler.step():
            found[token.request_id].append(token.token_id)
    while scheduler.active:
        for token in scheduler.step():
            found[token.request_id].append(token.token_id)
    for name, prompt in prompts.items():
        assert found[name] == greedy(theirs, prompt, 14), name


def test_a_cached_step_equals_the_whole(pair: tuple[Any, Any]) -> None:
    _, ours = pair
    batch = ragged(ours.settings.vocab_size)
    ids, mask = batch["input_ids"], batch["attention_mask"]
    with torch.no_grad():
        whole, cache, pieces = ours(ids, mask), DenseCache(), []
        for start, stop in ((0, 5), (5, 6), (6, 9)):
            pieces.append(ours(ids[:, start:stop], mask[:, :stop], cache))
    assert (torch.cat(pieces, 1) - whole)[mask == 1].abs().max() < 2e-5


def test_the_cache_has_room_for_key_value_heads_only(pair: tuple[Any, Any]) -> None:
    _, ours = pair
    cache = Scheduler(ours, cache_tokens=32).cache
    settings = ours.settings
    assert len(cache.keys) == settings.num_hidden_layers
    assert cache.keys[0].shape == (settings.key_value_heads, 32, settings.head_size)
