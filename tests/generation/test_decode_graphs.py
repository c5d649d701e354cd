"""Steps of one token per request as they are recorded on a GPU, computed here on the CPU."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from cupola.generation import SamplingParams, Scheduler
from cupola.generation.cache import BlockCache
from cupola.generation.decode_graphs import DecodeGraphs, decode_step, step_rows
from cupola.generation.paged_attention import Segment
from cupola.models.bloom import BloomForCausalLM
from cupola.models.llama import LlamaForCausalLM

BLOOM = {"vocab_size": 61, "hidden_size": 24, "n_head": 3, "n_layer": 2}
LLAMA = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
KINDS = {"bloom": (BloomForCausalLM, BLOOM), "llama": (LlamaForCausalLM, LLAMA)}


class Unrecorded:
    """DecodeGraphs without a graph: every step is computed as it would be recorded."""

    def __init__(self, model: Any, cache: BlockCache, slopes: Tensor | None) -> None:
        self.model, self.cache, self.slopes = model, cache, slopes
        self.steps = 0

    def __call__(self, ids: Sequence[int], segments: Sequence[Segment]) -> Tensor:
        self.steps += 1
        given = torch.tensor(step_rows(ids, segments))
        return decode_step(self.model, self.cache, self.slopes, given)[: len(ids)]


def texts(scheduler: Scheduler, prompts: Sequence[Sequence[int]]) -> dict[str, list[int]]:
    """Greedy tokens of each prompt; the second half joins after three steps."""
    late = list(enumerate(prompts))[len(prompts) // 2 :]
    for number, prompt in list(enumerate(prompts))[: len(prompts) // 2]:
        scheduler.add(str(number), prompt, SamplingParams(max_tokens=20, ignore_eos=True))
    found: dict[str, list[int]] = {str(number): [] for number in range(len(prompts))}
    steps = 0
    while scheduler.active or late:
        if steps == 3:
            for number, prompt in late:
                scheduler.add(str(number), prompt, SamplingParams(max_tokens=20, ignore_eos=True))
            late = []
        for token in scheduler.step():
            found[token.request_id].append(token.token_id)
        steps += 1
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_recorded_steps_choose_the_same_tokens(kind: str) -> None:
    torch.manual_seed(0)
    build, settings = KINDS[kind]
    model: Any = build(**settings).eval()
    generator = torch.Generator().manual_seed(1)
    prompts = [
        torch.randint(61, (size,), generator=generator).tolist() for size in (3, 17, 40, 5, 1, 30)
    ]
    expected = texts(Scheduler(model, cache_tokens=512, chunk=16), prompts)
    scheduler = Scheduler(model, cache_tokens=512, chunk=16)
    for pool in (*scheduler.cache.keys, *scheduler.cache.values):
        pool.fill_(float("nan"))  # what was never written must not be read
    steps = Unrecorded(model, scheduler.cache, scheduler.slopes)
    scheduler.graphs = steps  # type: ignore[assignment]
    assert texts(scheduler, prompts) == expected
    assert steps.steps > 15


def test_a_step_is_rounded_up_to_powers_of_two() -> None:
    cache = BlockCache([], 512, dtype=torch.float32)
    tables = [cache.reserve(size) for size in (20, 200, 40)]
    for table, length in zip(tables, (17, 150, 32), strict=True):
        table.length = length
    segments = [Segment(row, row + 1, table) for row, table in enumerate(tables)]
    rows = step_rows([5, 6, 7], segments)
    assert len(rows) == 4 and {len(row) for row in rows} == {3 + 16}
    assert rows[3] == rows[0]
    assert rows[1][:3] == [6, 150, tables[1].slots(150, 151)[0]]
    assert rows[2][3:6] == tables[2].blocks[:3]  # the third holds the new token


def test_a_model_on_the_cpu_is_not_recorded() -> None:
    model: Any = BloomForCausalLM(**BLOOM)
    assert not DecodeGraphs.can_run(model)
    assert Scheduler(model, cache_tokens=64).graphs is None
