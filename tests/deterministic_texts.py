"""Texts of deterministic models, with the logprob of every token, which shows any changed bit."""

from typing import Any

import torch

from cupola.generation import SamplingParams, Scheduler
from cupola.models.bloom import BloomForCausalLM
from cupola.models.llama import LlamaForCausalLM
from cupola.parallel import Mesh
from cupola.runtime.optimize.language import optimize

# Sizes that vectors of 16 do not divide, heads for four ranks, and a vocabulary for none.
BLOOM = {"vocab_size": 203, "hidden_size": 40, "n_layer": 2, "n_head": 4}
LLAMA = {
    "vocab_size": 203,
    "hidden_size": 40,
    "intermediate_size": 52,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 6,
}
FAMILIES: dict[str, tuple[Any, dict[str, Any]]] = {
    "bloom": (BloomForCausalLM, BLOOM),
    "llama": (LlamaForCausalLM, LLAMA),
}
Texts = list[list[tuple[int, float]]]


def deterministic(
    family: str, dtype: str = "float32", optimization: str = "none", group: Any = None
) -> Any:
    torch.manual_seed(0)
    built, sizes = FAMILIES[family]
    model = built(**sizes, initializer_range=0.3, dtype=dtype, group=group).eval()
    optimize(model, optimization, deterministic=True)
    return model


def requests(count: int, tokens: int = 10) -> list[tuple[list[int], SamplingParams]]:
    """Prompts of 1 to 60 tokens, several with the same beginning; sampled in different ways."""
    generator = torch.Generator().manual_seed(1)

    def draw(most: int, size: int) -> list[int]:
        return torch.randint(0, most, (size,), generator=generator).tolist()

    beginning = draw(200, 40)
    found = []
    for number in range(count):
        own = draw(200, 1 + draw(60, 1)[0])
        prompt = beginning + own[:20] if number % 3 == 0 else own
        how = [{"temperature": 0.0}, {}, {"top_p": 0.9}, {"top_k": 20, "min_p": 0.01}][number % 4]
        options: dict[str, Any] = {"temperature": 1.0, "seed": number, **how}
        found.append((prompt, SamplingParams(tokens, ignore_eos=True, logprobs=True, **options)))
    return found


def texts(model: Any, asked: Any, crowd: int = 1, **options: Any) -> Texts:
    """Each request's tokens and logprobs, at most `crowd` of them at a time."""
    scheduler = Scheduler(model, cache_tokens=4096, max_requests=crowd, **options)
    for number, (prompt, sampling) in enumerate(asked):
        scheduler.add(str(number), prompt, sampling)
    found: Texts = [[] for _ in asked]
    while scheduler.active:
        for token in scheduler.step():
            found[int(token.request_id)].append((token.token_id, token.logprob))
    return found


def on_ranks(mesh: Mesh, family: str, dtype: str, asked: Any, crowd: int, how: str) -> Texts:
    model = deterministic(family, dtype, how, mesh.tensor)
    return texts(model, asked, crowd, chunk=19)
