"""Deterministic language models: how many texts are byte-equal, and what it costs.

The reference is each request alone on one process. The same requests are then generated in crowds
of 2 to 32, in other chunks, without the prefix cache, with prompt lookup, on 2 and on 4 processes.

    OMP_NUM_THREADS=1 python bench/determinism.py [--requests 1000] [--full] [--no-cost]

--full measures the cost at the 560m shape with two threads, in place of a small one.
"""

import argparse
import multiprocessing
import socket
import time
from typing import Any

import torch

from cupola.bundles import Bundle
from cupola.generation import SamplingParams, Scheduler
from cupola.models.bloom import BloomForCausalLM
from cupola.parallel import Mesh
from cupola.runtime.optimize.language import optimize
from cupola.weights import load_shard, load_weights
from ratio import machine

TINY = {"vocab_size": 2003, "hidden_size": 40, "n_layer": 2, "n_head": 4}
SMALL = {"vocab_size": 32000, "hidden_size": 512, "n_layer": 6, "n_head": 8}
FULL = {"vocab_size": 250880, "hidden_size": 1024, "n_layer": 24, "n_head": 16}
WORLDS = (1, 2, 4)
# Ranks, requests at a time, and how the scheduler works: ten ways beside the reference.
WAYS: tuple[tuple[int, int, dict[str, Any]], ...] = (
    (1, 2, {"chunk": 256}),
    (1, 7, {"chunk": 16, "prefix_cache": False}),
    (1, 16, {"lookup_tokens": 4}),
    (1, 32, {"chunk": 33}),
    (2, 1, {"chunk": 16}),
    (2, 8, {"chunk": 256}),
    (2, 32, {"chunk": 50, "lookup_tokens": 4}),
    (4, 3, {"chunk": 16}),
    (4, 12, {"chunk": 256, "prefix_cache": False}),
    (4, 32, {"chunk": 64}),
)


def deterministic(name: str, group: Any = None) -> Any:
    """A tiny model with random weights, or the shipped one in its sixteen bits."""
    if name == "bloom-tiny":
        bundle = Bundle.load(name)
        sizes = {key: value for key, value in bundle.model_config.items() if key != "type"}
        model = BloomForCausalLM(**sizes, dtype="float16", group=group)
        if group is None:
            load_weights(model, bundle.weights_path)
        else:
            load_shard(model, bundle.weights_path, group)
    else:
        torch.manual_seed(0)
        model = BloomForCausalLM(**TINY, initializer_range=0.3, dtype=name, group=group)
    optimize(model.eval(), "none", deterministic=True)
    return model


def requests(count: int, vocabulary: int) -> list[tuple[list[int], SamplingParams]]:
    """Prompts of 1 to 60 tokens, a third with the same beginning; sampled in four ways."""
    generator = torch.Generator().manual_seed(1)
    beginning = torch.randint(5, vocabulary, (40,), generator=generator).tolist()
    hows: tuple[dict[str, Any], ...] = ({}, {"top_p": 0.9}, {"top_k": 20}, {"temperature": 0.0})
    found = []
    for number in range(count):
        size = 1 + int(torch.randint(0, 60, (), generator=generator))
        own = torch.randint(5, vocabulary, (size,), generator=generator).tolist()
        prompt = [*beginning, *own[:20]] if number % 3 == 0 else own
        options = {"temperature": 1.0, "seed": number, **hows[number % 4]}
        found.append((prompt, SamplingParams(16, ignore_eos=True, **options)))
    return found


def texts(model: Any, asked: Any, crowd: int, options: dict[str, Any]) -> list[list[int]]:
    """The generated ids of each request, at most `crowd` at a time."""
    scheduler = Scheduler(model, cache_tokens=8192, max_requests=crowd, **options)
    for number, (prompt, sampling) in enumerate(asked):
        scheduler.add(str(number), prompt, sampling)
    found: list[list[int]] = [[] for _ in asked]
    while scheduler.active:
        for token in scheduler.step():
            assert token.token_id is not None
            found[int(token.request_id)].append(token.token_id)
    return found


def rank(number: int, world: int, port: int, pipe: Any) -> None:
    """One process of several: generates what it is asked for until it gets None."""
    torch.set_num_threads(1)
    url = f"tcp://127.0.0.1:{port}"
    with Mesh.start(tensor=world, init_method=url, rank=number, world_size=world) as mesh:
        while (order := pipe.recv()) is not None:
            name, count, crowd, options = order
            model = deterministic(name, mesh.tensor)
            asked = requests(count, model.settings.vocab_size)
            found = texts(model, asked, crowd, options)
            pipe.send(found if number == 0 else None)


def on_ranks(world: int, orders: list[Any]) -> list[list[list[int]]]:
    """What `world` processes generate for each order."""
    context = multiprocessing.get_context("spawn")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    pipes, processes = [], []
    for number in range(world):
        ours, theirs = context.Pipe()
        process = context.Process(target=rank, args=(number, world, port, theirs), daemon=True)
        process.start()
        pipes.append(ours)
        processes.append(process)
    found = []
    for order in orders:
        for pipe in pipes:
            pipe.send(order)
        answers = [pipe.recv() for pipe in pipes]
        found.append(answers[0])
    for pipe, process in zip(pipes[::-1], processes[::-1], strict=True):  # rank 0 holds the store
        pipe.send(None)
        process.join()
    return found


def compare(name: str, count: int) -> tuple[int, int]:
    """Texts that equal the reference, and texts compared."""
    model = deterministic(name)
    asked = requests(count, model.settings.vocab_size)
    alone = texts(model, asked, 1, {"prefix_cache": False})
    equal = total = 0
    for world in WORLDS:
        ways = [way for way in WAYS if way[0] == world]
        orders = [(name, count, crowd, options) for _, crowd, options in ways]
        several = on_ranks(world, orders) if world > 1 else []
        for place, (_, crowd, options) in enumerate(ways):
            found = several[place] if several else texts(model, asked, crowd, options)
            same = sum(a == b for a, b in zip(alone, found, strict=True))
            equal, total = equal + same, total + count
            print(f"{name:<12} p = {world}, crowd {crowd:>2}, {options}: {same} of {count}")
    return equal, total


def stepper(model: Any, streams: int, length: int) -> Any:
    """A function that generates one more token of each stream, after prompts of `length`."""
    scheduler = Scheduler(model, cache_tokens=streams * (length + 256), prefix_cache=False)
    for number in range(streams):
        prompt = [5 + number, *range(100, 99 + length)]
        scheduler.add(str(number), prompt, SamplingParams(200, ignore_eos=True, temperature=1.0))
    while any(r.pending > 1 for r in scheduler._running.values()) or scheduler._waiting:
        scheduler.step()
    return scheduler.step


def cost(shape: dict[str, int], dtype: str, streams: int, length: int = 100) -> float:
    """Median seconds of a deterministic step over those of the fast path, turn by turn."""
    steppers = []
    for exact in (False, True):
        torch.manual_seed(0)
        model = BloomForCausalLM(**shape, dtype=dtype).eval()
        optimize(model, "none", exact)
        steppers.append(stepper(model, streams, length))
    times: list[list[float]] = [[], []]
    for _ in range(12):
        for step, measured in zip(steppers, times, strict=True):
            start = time.perf_counter()
            step()
            measured.append(time.perf_counter() - start)
    fast, exact_time = (sorted(found)[len(found) // 2] for found in times)
    return exact_time / fast


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--requests", type=int, default=1000, help="compared in ten ways")
    parser.add_argument("--full", action="store_true", help="measure the cost at the 560m shape")
    parser.add_argument("--no-cost", action="store_true", help="only compare texts")
    options = parser.parse_args()
    print(f"{machine()}, {torch.get_num_threads()} threads")
    equal = total = 0
    for name in ("float32", "bfloat16", "bloom-tiny"):
        found = compare(name, -(-options.requests // 3))
        equal, total = equal + found[0], total + found[1]
    print(f"byte-equal continuations: {equal} of {total}")
    for dtype in () if options.no_cost else ("float32", "bfloat16"):
        for streams in (1, 8):
            ratio = cost(FULL if options.full else SMALL, dtype, streams)
            print(f"{dtype}, {streams} streams: deterministic / fast {ratio:.2f}   target <= 1.3")


if __name__ == "__main__":
    main()
