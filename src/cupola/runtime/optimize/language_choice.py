"""The fastest way to execute a language model on this machine, by measurement.

The matrices of the first layer and a part of the head are multiplied in each storage that runs
here (storages.py), with the numbers of rows that serving has: one text, eight texts, a prompt. It
takes about two seconds (storage_times.py).

A choice is then applied and compared with the model as it was loaded. What differs by more than
TOLERANCE, or chooses another token, is not kept, unless eight bits were allowed; and nothing is
kept whose steps take longer.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from cupola.generation import SamplingParams, Scheduler
from cupola.parallel.eight_bits import exact_kernels
from cupola.parallel.four_bits import multiplies_four_bits
from cupola.runtime.optimize.language import optimize
from cupola.runtime.optimize.storage_times import (
    HEAD_ROWS,
    fastest_of,
    shortlist_times,
    times_of,
)
from cupola.runtime.optimize.storages import (
    HEAD,
    PACKED,
    PLAIN,
    SHORTLIST,
    exact_storages,
    matrices,
)
from cupola.runtime.optimize.threads import fastest_threads, shortest

TOLERANCE = 1e-3  # of the largest logit, for a storage that computes the same function
TIE = 1e-5  # of the largest logit: a token so close to the best may be chosen instead
SAMPLED_HEAD = 1 << 14  # rows of the head that are measured
SLOWER = 1.03  # of the time as loaded: more is not noise
REPEATS = 3  # of a step, before and after a choice
CACHED = 64  # tokens of keys and values in these steps
EXAMPLE_TOKENS = 16


@dataclass(frozen=True)
class LanguageChoice:
    """A choice that can be kept as JSON, for `optimize(model, c.optimization, storages=...)`."""

    optimization: str  # one of LANGUAGE
    storages: dict[str, str] = field(default_factory=dict)  # by the name of a matrix in its layer
    # name of a matrix -> storage -> time relative to the weight as it was loaded
    times: dict[str, dict[str, float]] = field(default_factory=dict)
    difference: float = 0.0  # of the logits, relative to the largest one
    same_tokens: bool = True  # as the model as it was loaded, on the example
    seconds: dict[str, float] = field(default_factory=dict)  # optimization -> of a step
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
    times = {name: times_of(m.weight, model, int8_allowed) for name, m in _first_layer(model)}
    part = model.head.weight[:SAMPLED_HEAD]
    # A second head in float32 would take more memory than it saves time.
    without = (PACKED,) if part.dtype == torch.float32 else ()
    times[HEAD] = times_of(part, model, int8_allowed, HEAD_ROWS, without)
    storages = {name: fastest_of(found) for name, found in times.items()}
    if model.group.size == 1 and storages[HEAD] in exact_kernels():
        storages[SHORTLIST] = storages[HEAD]  # one copy serves both
    elif model.group.size == 1 and exact_kernels():
        times[SHORTLIST] = shortlist_times(part, model, storages[HEAD])
        storages[SHORTLIST] = fastest_of(times[SHORTLIST])
    if set(storages.values()) == {PLAIN}:
        return LanguageChoice("none", times=times)
    eight = any(storages[name] in exact_kernels() for name in times if name != SHORTLIST)
    return LanguageChoice("int8" if eight else "packed", storages, times)


def optimize_fastest(
    model: Any, int8_allowed: bool = False, ids: Sequence[int] | None = None
) -> LanguageChoice:
    """Measures, applies the choice, and compares it on the token ids of an example.

    An exact choice that differs too much, and any that is slower, is taken back: the model is then
    as it was loaded.
    """
    optimize(model, "none")
    choice = fastest(model, int8_allowed)
    if choice.optimization == "none":
        return replace(choice, threads=_threads(model))
    example = list(ids or [])[:512] or example_ids(model)
    before, seconds = logits_of(model, example), {"none": step_seconds(model)}
    optimize(model, choice.optimization, storages=choice.storages)
    difference, same = compared(before, logits_of(model, example))
    seconds[choice.optimization] = step_seconds(model)
    differs = choice.optimization != "int8" and (difference > TOLERANCE or not same)
    if differs or seconds[choice.optimization] > SLOWER * seconds["none"]:
        optimize(model, "none")
        choice = replace(choice, optimization="none", storages={})
    choice = replace(choice, difference=difference, same_tokens=same, seconds=seconds)
    return replace(choice, threads=_threads(model))


def step_seconds(model: Any) -> float:
    """The least seconds in which a text gets its next token, chosen greedily."""
    scheduler = Scheduler(model, cache_tokens=CACHED)
    scheduler.add("", [0], SamplingParams(max_tokens=REPEATS + 2, ignore_eos=True))
    scheduler.step()  # the prompt
    return shortest(scheduler.step, REPEATS)


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


def _threads(model: Any) -> int | None:
    """Of those that torch has, the threads with which one token is computed the fastest.

    Ranks of a group would have to try the same number at the same time.
    """
    if torch.get_num_threads() == 1 or model.group.size > 1 or model.device.type != "cpu":
        return None
    return fastest_threads(lambda: logits_of(model, [0]))[0]


def example_ids(model: Any) -> list[int]:
    """Token ids to compare the logits of two executions on."""
    generator = torch.Generator().manual_seed(0)
    found: list[int] = torch.randint(
        model.settings.vocab_size, (EXAMPLE_TOKENS,), generator=generator
    ).tolist()
    return found


@torch.inference_mode()
def logits_of(model: Any, ids: Sequence[int]) -> Tensor:
    """The logits [S, V] of a text of S tokens, float32."""
    logits: Tensor = model(torch.tensor([list(ids)]))[0].float()
    return logits
