"""Random numbers that are a function of (a request's seed, a position, a token id).

`draw` picks a token by the Gumbel-max rule: the largest of logit + noise, which follows the
softmax's probabilities. Each token has its own noise, so a logit that is rounded differently moves
the choice only where two sums nearly tie. A draw along cumulated probabilities would move with
every rounding of every token before.

Source: SplitMix64 (Steele, Lea, Flood, OOPSLA 2014), which gives its n-th number at once.
"""

from functools import lru_cache
from typing import Any

import numpy as np
from torch import Tensor

GOLDEN = 0x9E3779B97F4A7C15
MASK = 2**64 - 1
FEW = 4096  # candidates whose noise is all computed
LIKELIEST = 64  # tokens of many that give a bound for the others
SLACK = 1.001  # for the rounding of that bound

Array = np.ndarray[Any, Any]


def mixed(x: int) -> int:
    """The finalizer of SplitMix64."""
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & MASK
    return x ^ (x >> 31)


def uniforms(seed: int, position: int, ids: Array) -> Array:
    """A number in (0, 1) for each token id, float64."""
    start = mixed((mixed((seed + GOLDEN) & MASK) + position * GOLDEN + GOLDEN) & MASK)
    return (_mixed_array(_steps(ids) + np.uint64(start)) >> np.uint64(11)) * 2.0**-53 + 2.0**-54


def gumbel(seed: int, position: int, ids: Array) -> Array:
    """Noise of the standard Gumbel distribution for each token id, float64."""
    found: Array = -np.log(-np.log(uniforms(seed, position, ids)))
    return found


def draw(logits: Tensor, ids: Tensor | None, seed: int, position: int) -> int:
    """The token drawn from logits [C] of the tokens `ids` [C]; None: 0 up to C - 1."""
    values = logits.detach().cpu().double().numpy()
    names = _first(len(values)) if ids is None else ids.cpu().numpy()
    if len(values) > FEW:
        near = _possible(values, names, seed, position)
        values, names = values[near], names[near]
    return int(names[(values + gumbel(seed, position, names)).argmax()])


def _possible(values: Array, names: Array, seed: int, position: int) -> Array:
    """Places of the few tokens that can have the largest sum.

    The largest of logit + noise is the smallest of -log(u) / weight, and -log(u) >= 1 - u.
    """
    weights = np.exp((values - values.max()).astype(np.float32))
    numbers = uniforms(seed, position, names)
    best = np.argpartition(weights, -LIKELIEST)[-LIKELIEST:]
    bound = (-np.log(numbers[best]) / weights[best]).min()
    found: Array = np.flatnonzero(1 - numbers <= bound * SLACK * weights)
    return found


@lru_cache(maxsize=2)
def _first(count: int) -> Array:
    return np.arange(count)


@lru_cache(maxsize=2)
def _first_steps(count: int) -> Array:
    steps: Array = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(GOLDEN)
    return steps


def _steps(ids: Array) -> Array:
    if len(ids) > FEW and ids is _first(len(ids)):
        return _first_steps(len(ids))
    steps: Array = (ids.astype(np.uint64) + np.uint64(1)) * np.uint64(GOLDEN)
    return steps


def _mixed_array(x: Array) -> Array:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
