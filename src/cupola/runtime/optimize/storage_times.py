"""Times a matrix of a language model in each storage that runs here, and finds the fastest.

A matrix is multiplied with the numbers of rows that serving has. No table of processors is
consulted: on one with AVX2 alone other kernels win than on one with AVX-512.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from cupola.parallel.eight_bits import EightBitMatrix, exact_kernels
from cupola.parallel.linear import linear
from cupola.runtime.optimize.storages import PLAIN, build, exact_storages

PROMPT = 128
ROWS = {1: 0.5, 8: 0.25, PROMPT: 0.25}  # rows of a step, and what they count
HEAD_ROWS = {1: 0.5, 8: 0.5}  # of a prompt only the last row needs logits
CACHE_BYTES = 64 << 20  # read in between, so that weights come from memory as they do in a step
GAIN = 0.95  # of the time as loaded: what is not faster by this is left as it is
SIMILAR = 1.1  # times so close are equal: then the storage that is listed first is taken
REPEATS = 3


def times_of(
    weight: Tensor,
    model: Any,
    int8_allowed: bool,
    rows: Mapping[int, float] = ROWS,
    without: Sequence[str] = (),
) -> dict[str, float]:
    """Storage -> time relative to plain, over the numbers of rows and what each counts."""
    names = [PLAIN, *(n for n in exact_storages(weight, model) if n not in (PLAIN, *without))]
    names += exact_kernels() if int8_allowed else ()
    seconds = {name: _seconds(_product(name, weight), weight, model, rows) for name in names}
    return {
        name: sum(share * found[n] / seconds[PLAIN][n] for n, share in rows.items())
        for name, found in seconds.items()
    }


def shortlist_times(part: Tensor, model: Any, head: str) -> dict[str, float]:
    """Kernel -> time of a greedy choice relative to reading the head in its storage."""
    rows = {1: 1.0}
    whole = _seconds(_product(head, part), part, model, rows)[1]
    found = {PLAIN: 1.0}
    for kernel in exact_kernels():
        found[kernel] = _seconds(EightBitMatrix(part, kernel=kernel), part, model, rows)[1] / whole
    return found


def fastest_of(times: Mapping[str, float]) -> str:
    """The first storage with about the shortest time; plain, unless that is clearly longer."""
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
