"""Learning-rate schedules as pure functions of the step, so that resuming needs no state.

Each maps a rate to another; several are applied in sequence. Names and arguments are MMEngine's.
Steps count from 0.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cupola.errors import BuildError, did_you_mean
from cupola.registry import without_scope

Schedule = Callable[[float, int], float]  # (rate, step) -> rate


def multi_step(milestones: Sequence[int], gamma: float = 0.1) -> Schedule:
    """Multiplies the rate by `gamma` at each milestone."""
    ordered = sorted(milestones)
    return lambda rate, step: rate * gamma ** bisect_right(ordered, step)


def exponential(gamma: float, begin: int = 0) -> Schedule:
    """Multiplies the rate by `gamma` in every step."""
    return lambda rate, step: rate * gamma ** max(0, step - begin)


def step_decay(step_size: int, gamma: float = 0.1, begin: int = 0) -> Schedule:
    """Multiplies the rate by `gamma` every `step_size` steps."""
    return lambda rate, step: rate * gamma ** (max(0, step - begin) // step_size)


def linear(begin: int, end: int, start_factor: float = 1 / 3, end_factor: float = 1.0) -> Schedule:
    """Warm-up: moves the factor from `start_factor` at `begin` to `end_factor` at `end`."""

    def schedule(rate: float, step: int) -> float:
        done = min(1.0, max(0.0, (step - begin) / max(1, end - begin)))
        return rate * (start_factor + (end_factor - start_factor) * done)

    return schedule


def quadratic(begin: int, end: int) -> Schedule:
    """Warm-up: the square of the part of the steps from `begin` to `end`."""

    def schedule(rate: float, step: int) -> float:
        done = min(1.0, max(0.0, (step + 1 - begin) / max(1, end - begin)))
        return rate * done**2

    return schedule


def constant(begin: int, end: int, factor: float = 1 / 3) -> Schedule:
    """Warm-up: the rate times `factor` from `begin` until `end`."""
    return lambda rate, step: rate * factor if begin <= step < end else rate


def cosine(begin: int, length: int, eta_min: float = 0.0, eta_min_ratio: float = 0.0) -> Schedule:
    """Half a cosine from the full rate at `begin` to the minimum after `length` steps."""

    def schedule(rate: float, step: int) -> float:
        done = min(1.0, max(0.0, (step - begin) / max(1, length)))
        least = max(eta_min, eta_min_ratio * rate)
        return least + (rate - least) * 0.5 * (1 + math.cos(math.pi * done))

    return schedule


def polynomial(begin: int, end: int, power: float = 1.0, eta_min: float = 0.0) -> Schedule:
    """Falls from the full rate at `begin` to `eta_min` at `end` as (1 - done) ** power."""

    def schedule(rate: float, step: int) -> float:
        done = min(1.0, max(0.0, (step - begin) / max(1, end - begin)))
        return eta_min + (rate - eta_min) * (1 - done) ** power

    return schedule


# MMEngine's names -> (our function, the arguments that count steps or epochs).
KINDS: dict[str, tuple[Callable[..., Schedule], tuple[str, ...]]] = {
    "MultiStepLR": (multi_step, ("milestones",)),
    "StepLR": (step_decay, ("step_size", "begin")),
    "ExponentialLR": (exponential, ("begin",)),
    "LinearLR": (linear, ("begin", "end")),
    "QuadraticWarmupLR": (quadratic, ("begin", "end")),
    "ConstantLR": (constant, ("begin", "end")),
    "CosineAnnealingLR": (cosine, ("begin", "length")),
    "PolyLR": (polynomial, ("begin", "end")),
}
LAST_STEPS = ("LinearLR", "ConstantLR", "PolyLR")  # whose `end` is the step after their last one
# Arguments of MMEngine without effect here: a schedule keeps its last value after its end.
UNUSED = ("verbose", "last_step")


def from_begin(schedule: Schedule, begin: int, steps: int) -> Schedule:
    """The schedule for one that counts in units of so many steps, and has no effect before `begin`.

    `begin` counts in units, too.
    """
    return lambda rate, step: rate if step // steps < begin else schedule(rate, step // steps)


def build_schedule(cfg: Mapping[str, Any], steps_per_epoch: int, max_steps: int) -> Schedule:
    """A schedule from its config, whose rates are MMEngine's.

    With `by_epoch` (the default) it counts in epochs and changes the rate between them; with
    convert_to_iter_based in each step. Raises BuildError for an unknown type or argument.
    """
    arguments = {key: value for key, value in without_scope(cfg).items() if key not in UNUSED}
    kind = arguments.pop("type", None)
    if kind not in KINDS:
        raise BuildError(f"unknown param_scheduler type {kind!r}{did_you_mean(str(kind), KINDS)}")
    maker, counted = KINDS[kind]
    per_epoch = bool(arguments.pop("by_epoch", True))
    whole_epochs = not arguments.pop("convert_to_iter_based", False) and per_epoch
    steps = steps_per_epoch if whole_epochs else 1  # after which the rate changes
    unit = steps_per_epoch if per_epoch and not whole_epochs else 1  # of the arguments
    max_steps //= steps
    if kind in LAST_STEPS and "end" in arguments:
        arguments["end"] = arguments["end"] * unit - 1
        counted = tuple(key for key in counted if key != "end")
    begin_at = arguments.get("begin", 0) * unit
    if kind == "CosineAnnealingLR":
        begin, end = arguments.get("begin", 0), arguments.pop("end", None)
        whole = end if end is not None else max_steps // unit
        arguments["length"] = arguments.pop("T_max", None) or whole - begin
    elif "end" in counted:
        arguments.setdefault("end", max_steps // unit)
    elif kind not in LAST_STEPS:
        arguments.pop("end", None)
    if kind != "MultiStepLR":
        arguments.setdefault("begin", 0)
    else:
        arguments.pop("begin", None)
    for key in counted:
        if key not in arguments:
            raise BuildError(f"param_scheduler {kind}: needs {key}")
        value = arguments[key]
        arguments[key] = value * unit
        if key == "milestones":  # which count from `begin`
            arguments[key] = [v * unit + begin_at for v in value]
    try:
        return from_begin(maker(**arguments), begin_at, steps)
    except TypeError as error:
        raise BuildError(f"param_scheduler {kind}: {error}") from None


def scheduled_rate(rate: float, step: int, schedules: Sequence[Schedule]) -> float:
    """The rate at `step` after all schedules."""
    for schedule in schedules:
        rate = schedule(rate, step)
    return rate
