"""Generation: against transformers' greedy ids, and independent of what else is in the batch."""

import pytest
import torch
from bloom_cases import build

from cupola.errors import InputError
from cupola.generation import SamplingParams, Scheduler
from cupola.models.bloom import BloomForCausalLM
from golden import Golden, golden


def model_of(about: Golden) -> BloomForCausalLM:
    return build(about.config["bloom"], about.weights())


def drain(scheduler: Scheduler) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    while scheduler.active:
        for token in scheduler.step():
            found.setdefault(token.request_id, []).append(token.token_id)
    return found


@pytest.mark.parametrize("name", ["bloom_tiny_h8", "bloom_tiny_h6"])
@pytest.mark.parametrize("chunk", [1, 5, 256])
def test_greedy_ids_equal_transformers(name: str, chunk: int) -> None:
    about = golden(name)
    ids, mask = about.stored("input_ids"), about.stored("attention_mask")
    new = about.output("generated").shape[1] - ids.shape[1]
    ours = model_of(about).generate(ids, mask, max_tokens=new, chunk=chunk)
    assert torch.equal(ours, about.output("generated"))


def prompts(model: BloomForCausalLM) -> dict[str, list[int]]:
    generator = torch.Generator().manual_seed(3)
    sizes = {"a": 3, "b": 40, "c": 17, "d": 1, "e": 33}
    high = model.settings.vocab_size
    return {k: torch.randint(0, high, (n,), generator=generator).tolist() for k, n in sizes.items()}


def test_a_sample_does_not_depend_on_its_neighbors() -> None:
    model = model_of(golden("bloom_tiny_h8"))
    how = {
        name: SamplingParams(max_tokens=12, temperature=0.9, top_k=50, top_p=0.9, seed=seed)
        for seed, name in enumerate("abcde")
    }
    alone = {}
    for name, prompt in prompts(model).items():
        scheduler = Scheduler(model, cache_tokens=64)
        scheduler.add(name, prompt, how[name])
        alone |= drain(scheduler)
    together = Scheduler(model, cache_tokens=512, chunk=8)
    found: dict[str, list[int]] = {}
    for name, prompt in prompts(model).items():  # they join one step after another
        together.add(name, prompt, how[name])
        for token in together.step():
            found.setdefault(token.request_id, []).append(token.token_id)
    for name, tokens in drain(together).items():
        found[name] = found.get(name, []) + tokens
    assert found == alone


def test_requests_wait_for_free_blocks_and_return_them() -> None:
    model = model_of(golden("bloom_tiny_h8"))
    scheduler = Scheduler(model, cache_tokens=64)
    for name, prompt in prompts(model).items():
        scheduler.add(name, prompt, SamplingParams(max_tokens=4))
    assert len(drain(scheduler)) == 5
    assert scheduler.cache.free_tokens == 64


def test_canceled_requests_return_their_blocks() -> None:
    model = model_of(golden("bloom_tiny_h8"))
    scheduler = Scheduler(model, cache_tokens=64)
    scheduler.add("x", [1, 2, 3], SamplingParams(max_tokens=30))
    scheduler.step()
    scheduler.cancel("x")
    scheduler.cancel("never seen")
    assert (scheduler.active, scheduler.cache.free_tokens) == (0, 64)


def test_scattered_blocks_give_the_same_text() -> None:
    model = model_of(golden("bloom_tiny_h8"))
    prompt = prompts(model)["c"]
    expected = model.generate(torch.tensor([prompt]), max_tokens=20)[0, len(prompt) :].tolist()
    scheduler = Scheduler(model, cache_tokens=80)
    for name in "pqr":
        scheduler.add(name, [1], SamplingParams(max_tokens=9 if name == "q" else 25))
    scheduler.step()
    scheduler.cancel("p")
    scheduler.cancel("r")  # leaves holes on both sides of q
    scheduler.add("late", prompt, SamplingParams(max_tokens=20))
    tokens = []
    while scheduler.active:
        tokens += [t.token_id for t in scheduler.step() if t.request_id == "late"]
        late = scheduler._running.get("late")
        assert late is None or not late.table.contiguous
    assert tokens == expected


def test_reasons_and_logprobs() -> None:
    model = model_of(golden("bloom_tiny_h8"))
    scheduler = Scheduler(model, cache_tokens=64)
    scheduler.add("x", [5, 6], SamplingParams(max_tokens=2, logprobs=True))
    first, second = scheduler.step() + scheduler.step()
    with torch.no_grad():
        expected = model(torch.tensor([[5, 6]]))[0, -1].log_softmax(-1)
    assert first.finish_reason is None
    assert second.finish_reason == "length"
    assert first.logprob == pytest.approx(float(expected.max()), abs=1e-5)


def test_the_end_of_text_stops() -> None:
    about = golden("bloom_tiny_h8")
    first = int(about.output("generated")[0, 12])
    model = build(about.config["bloom"] | {"eos_token_id": first}, about.weights())
    scheduler = Scheduler(model, cache_tokens=64)
    scheduler.add("x", about.stored("input_ids")[0].tolist(), SamplingParams())
    (token,) = scheduler.step()
    assert (token.token_id, token.finish_reason, scheduler.active) == (first, "stop", 0)


@pytest.mark.parametrize(
    ("prompt", "sampling", "text"),
    [
        ([], {}, "the prompt is empty"),
        ([400], {}, "token id 400 is not in 0..319"),
        ([-1], {}, "token id -1 is not"),
        ([1], {"max_tokens": 100}, "exceed the 64 tokens of the cache"),
        ([1], {"top_p": 0.0}, r"top_p must be in \(0, 1\]"),
        ([1], {"temperature": -1.0}, "temperature must not be negative"),
    ],
)
def test_wrong_requests_are_refused(prompt: list[int], sampling: dict, text: str) -> None:
    scheduler = Scheduler(model_of(golden("bloom_tiny_h8")), cache_tokens=64)
    with pytest.raises(InputError, match=text):
        scheduler.add("x", prompt, SamplingParams(**sampling))
