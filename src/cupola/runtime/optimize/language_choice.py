"""The fastest way to execute a language model on this machine, by measurement.

The matrices of the first layer and a part of the head are multiplied in each storage that runs
here (storages.py), with the numbers of rows that serving has: one text, eight texts, a prompt. It
takes about two seconds. No table of processors is consulted: on one with AVX2 alone other kernels
win than on one with AVX-512.

A choice is then applied and compared with the model as it was loaded. What differs by more than
TOLERANCE, or chooses another token, is not kept, unless eight bits were allowed.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from cupola.parallel.eight_bits import EightBitMatrix, exact_kernels
from cupola.parallel.four_bits import multiplies_four_bits
from cupola.parallel.linear import linear
from cupola.runtime.optimize.language import optimize
from cupola.runtime.optimize.storages import (
    HEAD,
    PACKED,
    PLAIN,
    SHORTLIST,
    build,
    exact_storages,
    matrices,
)
from cupola.runtime.optimize.threads import fastest_threads

TOLERANCE = 1e-3  # of the largest logit, for a storage that computes the same function
TIE = 1e-5  # of the largest logit: a token so close to the best may be chosen instead
PROMPT = 128
ROWS = {1: 0.5, 8: 0.25, PROMPT: 0.25}  # rows of a step, and what they count
HEAD_ROWS = {1: 0.5, 8: 0.5}  # of a prompt only the last row needs logits
SAMPLED_HEAD = 1 << 14  # rows of the head that are measured
CACHE_BYTES = 64 << 20  # read in between, so that weights come from memory as they do in a step
GAIN = 0.95  # of the time as loaded: what is not faster by this is left as it is
SIMILAR = 1.1  # times so close are equal: then the storage that is listed first is taken
REPEATS = 3
EXAMPLE_TOKENS = 16


@dataclass(frozen=True)
class LanguageChoice:
    """A choice that can be kept as JSON, for `optimize(model, c.optimization, storages=...)`."""

    optimization: str  # one of OPTIMIZATIONS
    storages: dict[str, str] = field(default_factory=dict)  # by the name of a matrix in its layer
    # name of a matrix -> storage -> time relative to the weight as it was loaded
    times: dict[str, dict[str, float]] = field(default_factory=dict)
    difference: float = 0.0  # of the logits, relative to the largest one
    same_tokens: bool = True  # as the model as it was loaded, on the example
    threads: int | None = None  # with which a step was the fastest; None if torch has only one

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def candidates(model: Any) -> dict[str, str | None]:
    """Each optimization, and why it would change nothing here; None if it can run."""
    on_cpu = model.device.type == "cpu"
    reason = None if on_cpu else f"the model is on {model.device}, and the kernels are the CPU's"
    first = [module.weight for name, module in _first_layer(model)]
    packs = any(exact_storages(weight, model) != [PLAIN] for weight in first) if on_cpu else False
    kernels = bool(exact_kernels())
    return {
        "none": None,
        "packed": reason or (None if packs or kernels else "no kernel for these weights"),
        "int8": reason or (None if kernels else "no exact product of int8 matrices"),
        "int4": reason or (None if multiplies_four_bits() else "no product of 4-bit matrices"),
    }


def fastest_exact(model: Any) -> LanguageChoice:
    """The fastest storages that compute the same function. The model is not changed."""
    return fastest(model, int8_allowed=False)


@torch.inference_mode()
def fastest(model: Any, int8_allowed: bool) -> LanguageChoice:
    """The fastest storage of each matrix. The model is not changed, and nothing is compared."""
    if model.device.type != "cpu" or model.deterministic:
        return LanguageChoice("none")
    times = {name: _times(m.weight, model, int8_allowed, ROWS) for name, m in _first_layer(model)}
    part = model.head.weight[:SAMPLED_HEAD]
    # A second head in float32 would take more memory than it saves time.
    without = (PACKED,) if part.dtype == torch.float32 else ()
    times[HEAD] = _times(part, model, int8_allowed, HEAD_ROWS, without)
    storages = {name: _best(found) for name, found in times.items()}
    if model.group.size == 1 and storages[HEAD] in exact_kernels():
        storages[SHORTLIST] = storages[HEAD]  # one copy serves both
    elif model.group.size == 1 and exact_kernels():
        times[SHORTLIST] = _shortlist_times(part, model, storages[HEAD])
        storages[SHORTLIST] = _best(times[SHORTLIST])
    if set(storages.values()) == {PLAIN}:
        return LanguageChoice("none", times=times)
    eight = any(storages[name] in exact_kernels() for name in times if name != SHORTLIST)
    return LanguageChoice("int8" if eight else "packed", storages, times)


def optimize_fastest(
    model: Any, int8_allowed: bool = False, ids: Sequence[int] | None = None
) -> LanguageChoice:
    """Measures, applies the choice, and compares it on the token ids of an example.

    An exact choice that differs too much is taken back: the model is then as it was loaded.
    """
    optimize(model, "none")
    choice = fastest(model, int8_allowed)
    if choice.optimization == "none":
        return replace(choice, threads=_threads(model))
    example = list(ids or [])[:512] or _example_ids(model)
    before = _logits(model, example)
    optimize(model, choice.optimization, storages=choice.storages)
    difference, same = compared(before, _logits(model, example))
    if choice.optimization != "int8" and (difference > TOLERANCE or not same):
        optimize(model, "none")
        choice = replace(choice, optimization="none", storages={})
    return replace(choice, difference=difference, same_tokens=same, threads=_threads(model))


def compared(before: Tensor, after: Tensor) -> tuple[float, bool]:
    """Logits [S, V] of two executions: the difference relative to the largest, and equal choices.

    Choices are equal, too, where two logits of `before` tie but for rounding.
    """
    largest = before.abs().amax(-1)  # [S]
    difference = float(((before - after).abs().amax(-1) / largest).max())
    chosen = before.gather(-1, after.argmax(-1, keepdim=True))[:, 0]
    return difference, bool((before.amax(-1) - chosen <= TIE * largest).all())


def _first_layer(model: Any) -> list[tuple[str, Any]]:
    found: dict[str, Any] = {}
    for name, module in matrices(model):
        found.setdefault(name, module)
    return list(found.items())


def _times(
    weight: Tensor,
    model: Any,
    int8_allowed: bool,
    rows: Mapping[int, float],
    without: Sequence[str] = (),
) -> dict[str, float]:
    """Storage -> time relative to plain, over the numbers of rows."""
    names = [PLAIN, *(n for n in exact_storages(weight, model) if n not in (PLAIN, *without))]
    names += exact_kernels() if int8_allowed else ()
    seconds = {name: _seconds(_product(name, weight), weight, model, rows) for name in names}
    return {
        name: sum(share * found[n] / seconds[PLAIN][n] for n, share in rows.items())
        for name, found in seconds.items()
    }


def _shortlist_times(part: Tensor, model: Any, head: str) -> dict[str, float]:
    """Kernel -> time of a greedy choice relative to reading the head in its storage."""
    rows = {1: 1.0}
    whole = _seconds(_product(head, part), part, model, rows)[1]
    found = {PLAIN: 1.0}
    for kernel in exact_kernels():
        found[kernel] = _seconds(EightBitMatrix(part, kernel=kernel), part, model, rows)[1] / whole
    return found


def _best(times: Mapping[str, float]) -> str:
    least = min(times.values())
    if least >= GAIN * times[PLAIN]:
        return PLAIN
    return next(n for n, t in times.items() if n != PLAIN and t <= SIMILAR * least)


def _product(name: str, weight: Tensor) -> Callable[..., Tensor]:
    stored = build(name, weight)
    return stored if stored is not None else lambda x, bias: linear(x, weight, bias)


def _seconds(
    product: Callable[..., Tensor], weight: Tensor, model: Any, rows: Mapping[int, float]
) -> dict[int, float]:
    """Number of rows -> seconds of the fastest of a few products."""
    other = torch.zeros(CACHE_BYTES // 4)
    found = {}
    for count in rows:
        x = torch.ones(count, weight.shape[1], dtype=model.dtype)
        product(x, None)  # prepares the kernel
        times = []
        for _ in range(REPEATS if count < PROMPT else 1):
            if count < PROMPT:
                other.sum()
            start = time.perf_counter()
            product(x, None)
            times.append(time.perf_counter() - start)
        found[count] = min(times)
    return found


def _threads(model: Any) -> int | None:
    """Of those that torch has, the threads with which one token is computed the fastest.

    Ranks of a group would have to try the same number at the same time.
    """
    if torch.get_num_threads() == 1 or model.group.size > 1 or model.device.type != "cpu":
        return None
    return fastest_threads(lambda: _logits(model, [0]))[0]


def _example_ids(model: Any) -> list[int]:
    generator = torch.Generator().manual_seed(0)
    found: list[int] = torch.randint(
        model.settings.vocab_size, (EXAMPLE_TOKENS,), generator=generator
    ).tolist()
    return found


@torch.inference_mode()
def _logits(model: Any, ids: Sequence[int]) -> Tensor:
    logits: Tensor = model(torch.tensor([list(ids)]))[0].float()
    return logits
