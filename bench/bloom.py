"""BLOOM at the 560m shape against transformers, in one run: decode, prefill, streams, start, load.

Random weights, shared by both. Ratios matter, not seconds: they hold across machines, and each
pair is measured turn by turn. Weights in float16 are multiplied in float32 by both: ours keep them
in sixteen bits, transformers in float32. With float32 and bfloat16 both store what they compute in.

    OMP_NUM_THREADS=2 python bench/bloom.py [--dtype float16|float32|bfloat16] [--quick] [--avx2]
"""

import argparse
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import torch
from safetensors.torch import save_file

from cupola import nn
from cupola.bundles.optimizations import LANGUAGE
from cupola.generation import SamplingParams, Scheduler
from cupola.models.bloom import BloomForCausalLM
from cupola.parallel import Group
from cupola.runtime.optimize.language import optimize
from cupola.runtime.optimize.language_choice import optimize_fastest
from cupola.weights import load_shard
from cupola.weights.families.bloom import BLOOM
from ratio import as_avx2, kind, machine

# How the weights are executed; auto: the storages that are measured to be the fastest here.
WAYS: dict[str, Callable[[Any], object]] = {
    **{name: partial(optimize, optimization=name) for name in LANGUAGE},
    "auto, exact": optimize_fastest,
    "auto, int8": partial(optimize_fastest, int8_allowed=True),
}
SHAPE = {"vocab_size": 250880, "hidden_size": 1024, "n_layer": 24, "n_head": 16}
QUICK = {"vocab_size": 32000, "hidden_size": 512, "n_layer": 6, "n_head": 8}
PROMPT, STEPS = 32, 12


def seconds(run: Callable[[], Any], times: int = 1) -> float:
    """The fastest of `times` runs."""
    best = float("inf")
    for _ in range(times):
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
    return best


def models(
    shape: dict[str, int], dtype: torch.dtype, ways: Mapping[str, Callable[[Any], object]] = WAYS
) -> tuple[dict[str, Any], Any]:
    """Ours executed in each way, and theirs, all over the same tensors."""
    import transformers

    torch.manual_seed(0)
    with nn.on_meta():
        variants = {name: BloomForCausalLM(dtype=dtype, **shape).eval() for name in ways}
    ours = next(iter(variants.values()))
    state = {
        key: torch.ones(t.shape, dtype=dtype)
        if "norm.weight" in key
        else torch.empty(t.shape, dtype=dtype).normal_(0, 0.02)
        for key, t in ours.state_dict().items()
    }
    for name, model in variants.items():
        model.load_state_dict(state, assign=True)
        ways[name](model)
    with torch.device("meta"):
        theirs = transformers.BloomForCausalLM(transformers.BloomConfig(**shape)).eval()
    wide = torch.float32 if dtype == torch.float16 else dtype
    theirs.load_state_dict(
        {BLOOM.their_key(key): tensor.to(wide) for key, tensor in state.items()},
        strict=False,
        assign=True,
    )
    theirs.tie_weights()
    return variants, theirs


def bandwidth() -> float:
    """GB/s that this machine reads from memory, with the threads that torch uses."""
    table = torch.ones(1 << 18, 1024)  # 1 GiB
    vector = torch.ones(1024)
    return table.nbytes / seconds(lambda: table @ vector, 5) / 1e9


def our_stepper(model: Any, ids: list[int], count: int = 1) -> Callable[[], Any]:
    """A function that generates one more token of `count` requests at once."""
    scheduler = Scheduler(model, cache_tokens=4096)
    for number in range(count):
        scheduler.add(
            str(number), [number + 5, *ids], SamplingParams(max_tokens=100, ignore_eos=True)
        )
    scheduler.step()  # all prompts fit in one chunk
    scheduler.step()
    return scheduler.step


@torch.inference_mode()
def their_stepper(model: Any, ids: list[int]) -> Callable[[], Any]:
    """The same for transformers, one request."""
    state = {"ids": torch.tensor([[5, *ids]]), "cache": None}

    @torch.inference_mode()
    def step() -> None:
        out = model(state["ids"], past_key_values=state["cache"], use_cache=True, logits_to_keep=1)
        state["ids"], state["cache"] = out.logits[:, -1:].argmax(-1), out.past_key_values

    step()
    step()
    return step


def decode(variants: dict[str, Any], theirs: Any) -> dict[str, float]:
    """Median seconds a step: theirs, and each of ours with one and with eight streams."""
    ids = torch.randint(0, 30000, (PROMPT,)).tolist()
    steppers = {"theirs": their_stepper(theirs, ids)}
    for name, model in variants.items():
        steppers[name] = our_stepper(model, ids)
        steppers[f"{name} x 8"] = our_stepper(model, ids, 8)
    times: dict[str, list[float]] = {name: [] for name in steppers}
    for _ in range(STEPS):
        for name, stepper in steppers.items():
            times[name].append(seconds(stepper))
    return {name: sorted(found)[STEPS // 2] for name, found in times.items()}


def prefill(ours: Any, theirs: Any, tokens: int = 128) -> tuple[float, float]:
    """Seconds from a prompt to the logits after it: ours, theirs with logits_to_keep=1."""
    ids = torch.randint(0, 30000, (tokens,))

    def mine() -> None:
        scheduler = Scheduler(ours, cache_tokens=1024)
        scheduler.add("x", ids.tolist(), SamplingParams(max_tokens=1, ignore_eos=True))
        scheduler.step()

    @torch.inference_mode()
    def other() -> None:
        theirs(ids[None], use_cache=True, logits_to_keep=1)

    mine()
    other()
    pairs = [(seconds(mine), seconds(other)) for _ in range(3)]
    return min(p[0] for p in pairs), min(p[1] for p in pairs)


def repeated_prompt(ours: Any, tokens: int) -> tuple[float, float]:
    """Seconds to the first token after a system prompt of `tokens`: at first, and again."""
    scheduler = Scheduler(ours, cache_tokens=4 * tokens)
    system = torch.randint(0, 30000, (tokens,)).tolist()
    times = []
    for number in range(4):
        prompt = [*system, *range(number, number + 10)]
        scheduler.add(str(number), prompt, SamplingParams(max_tokens=1, ignore_eos=True))
        start = time.perf_counter()
        while scheduler.active:
            scheduler.step()
        times.append(time.perf_counter() - start)
    return times[0], sorted(times[1:])[1]


def longest_wait(ours: Any, tokens: int) -> float:
    """The median time between two tokens of a text while a prompt is computed, in decode steps."""
    scheduler = Scheduler(ours, cache_tokens=2 * tokens + 512)
    scheduler.add("running", range(5, 37), SamplingParams(max_tokens=1000, ignore_eos=True))
    for _ in range(6):
        scheduler.step()
    plain = sorted(seconds(scheduler.step) for _ in range(9))[4]
    prompt = torch.randint(0, 30000, (tokens,)).tolist()
    scheduler.add("long", prompt, SamplingParams(max_tokens=2, ignore_eos=True))
    waits: list[float] = []
    while not any(token.request_id == "long" for token in timed(scheduler, waits)):
        pass
    return sorted(waits)[len(waits) // 2] / plain


def timed(scheduler: Scheduler, waits: list[float]) -> Any:
    """The tokens of one step, whose seconds are added to `waits`."""
    start = time.perf_counter()
    tokens = scheduler.step()
    waits.append(time.perf_counter() - start)
    return tokens


def lookup_gain(ours: Any) -> tuple[float, float]:
    """Tokens per second with prompt lookup over those without, and accepted tokens a step.

    Greedy texts of random weights repeat themselves, which is the best case.
    """
    rates, accepted = [], 0.0
    for tokens in (0, 6):
        scheduler = Scheduler(ours, cache_tokens=1024, lookup_tokens=tokens)
        scheduler.add("x", range(5, 37), SamplingParams(max_tokens=64, ignore_eos=True))
        scheduler.step()
        start = time.perf_counter()
        while scheduler.active:
            scheduler.step()
        rates.append(63 / (time.perf_counter() - start))
        accepted = scheduler.accepted / scheduler.steps
    return rates[1] / rates[0], accepted


def first_token(folder: Path, shape: dict[str, int], dtype: torch.dtype) -> float:
    """Seconds from a prepared file to the first token of an eight-token prompt."""
    start = time.perf_counter()
    with nn.on_meta():
        model = BloomForCausalLM(dtype=dtype, **shape).eval()
    load_shard(model, folder)
    optimize(model, "none")
    scheduler = Scheduler(model, cache_tokens=256)
    scheduler.add("x", range(5, 13), SamplingParams(max_tokens=1))
    scheduler.step()
    return time.perf_counter() - start


def load_rank(folder: Path, shape: dict[str, int], rank: int, size: int, pipe: Any) -> None:
    """Loads one rank's part; sends by how many bytes the private memory rose at its peak.

    Pages of mapped files count as private here, since nobody else maps them.
    """
    before = psutil.Process().memory_full_info().uss
    group = Group("tensor", tuple(range(size)), rank)
    with nn.on_meta():
        model = BloomForCausalLM(group=group, **shape)
    load_shard(model, folder, group)
    for parameter in model.parameters():
        parameter.sum()  # touches every page
    pipe.send(psutil.Process().memory_full_info().uss - before)


def load_memory(folder: Path, shape: dict[str, int], size: int) -> int:
    """Bytes of private memory that the last of `size` ranks takes to load."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=load_rank, args=(folder, shape, size - 1, size, theirs))
    process.start()
    found: int = ours.recv()
    process.join()
    return found


def line(what: str, value: float, target: str, note: str = "") -> None:
    print(f"{what:<48} {value:8.3f}   target {target:<8} {note}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    types = ["float16", "float32", "bfloat16"]
    parser.add_argument("--dtype", default="float16", choices=types)
    parser.add_argument("--quick", action="store_true", help="a small shape, in seconds")
    parser.add_argument("--avx2", action="store_true", help="hide AVX-512 from torch")
    options = parser.parse_args()
    if options.avx2:
        as_avx2()
    shape, dtype = QUICK if options.quick else SHAPE, getattr(torch, options.dtype)
    print(f"{machine()}: {kind()}, {torch.get_num_threads()} threads, {options.dtype}, {shape}")
    rate = bandwidth()
    variants, theirs = models(shape, dtype)
    ours = variants["none"]
    size = sum(p.nbytes for p in ours.parameters())
    found = decode(variants, theirs)
    their, floor = found["theirs"], size / rate / 1e9
    bound = "<= 0.50" if dtype == torch.bfloat16 else "<= 0.60"
    for name in WAYS:
        about = f"{found[name]:.4f} s, {their:.4f} s"
        limit = "" if name == "int4" else "<= 0.40" if "int8" in name else bound
        line(f"decode, batch 1, {name}: ours / theirs", found[name] / their, limit, about)
    line(
        "decode, batch 1: ours / bandwidth floor",
        found["none"] / floor,
        "",
        f"{rate:.1f} GB/s",
    )
    for name in WAYS:
        eight = found[f"{name} x 8"]
        gain = 8 * found[name] / eight
        line(
            f"eight streams, {name}: tokens/s over one",
            gain,
            "" if name == "int4" else ">= 4",
            f"{eight:.4f} s a step",
        )
    mine, other = prefill(ours, theirs)
    line("prefill 128: ours / theirs (last logits)", mine / other, "<= 0.85", f"{mine:.3f} s")
    length = 250 if options.quick else 1000
    first, again = repeated_prompt(ours, length)
    line(f"system prompt of {length}: again / first", again / first, "<= 0.1", f"{again:.3f} s")
    wait = longest_wait(ours, 2 * length)
    line(f"prompt of {2 * length}: time between tokens, steps", wait, "<= 3")
    gain, accepted = lookup_gain(ours)
    line("prompt lookup: tokens/s over without", gain, "> 1", f"{accepted:.1f} guesses a step")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_file(dict(ours.state_dict()), folder / "model.safetensors")
        del ours, theirs, variants
        line("prepared weights to first token, s", first_token(folder, shape, dtype), "<= 2.5")
        whole, part = (load_memory(folder, shape, count) for count in (1, 4))
        line(
            "load: private memory, p = 4 over p = 1", part / whole, "<= 0.30", f"{whole >> 20} MiB"
        )


if __name__ == "__main__":
    main()
