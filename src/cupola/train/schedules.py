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
    "LinearLR": (linear, ("begin", "end")),
    "QuadraticWarmupLR": (quadratic, ("begin", "end")),
    "ConstantLR": (constant, ("begin", "end")),
    "CosineAnnealingLR": (cosine, ("begin", "length")),
    "PolyLR": (polynomial, ("begin", "end")),
}
# Arguments of MMEngine without effect here: a schedule keeps its last value after its end.
UNUSED = ("convert_to_iter_based", "verbose", "last_step")


def build_schedule(cfg: Mapping[str, Any], steps_per_epoch: int, max_steps: int) -> Schedule:
    """A schedule from its config; `by_epoch` (default True, as in MMEngine) counts in epochs.

    Raises BuildError for an unknown type or argument.
    """
    arguments = {key: value for key, value in without_scope(cfg).items() if key not in UNUSED}
    kind = arguments.pop("type", None)
    if kind not in KINDS:
        raise BuildError(f"unknown param_scheduler type {kind!r}{did_you_mean(str(kind), KINDS)}")
    maker, counted = KINDS[kind]
    unit = steps_per_epoch if arguments.pop("by_epoch", True) else 1
    if kind == "CosineAnnealingLR":
        begin, end = arguments.get("begin", 0), arguments.pop("end", None)
        whole = end if end is not None else max_steps // unit
        arguments["length"] = arguments.pop("T_max", None) or whole - begin
    elif "end" in counted:
        arguments.setdefault("end", max_steps // unit)
    else:
        arguments.pop("end", None)
    if kind != "MultiStepLR":
        arguments.setdefault("begin", 0)
    else:
        arguments.pop("begin", None)
    for key in counted:
        if key not in arguments:
            raise BuildError(f"param_scheduler {kind}: needs {key}")
        value = arguments[key]
        arguments[key] = [v * unit for v in value] if key == "milestones" else value * unit
    try:
        return maker(**arguments)
    except TypeError as error:
        raise BuildError(f"param_scheduler {kind}: {error}") from None


def scheduled_rate(rate: float, step: int, schedules: Sequence[Schedule]) -> float:
    """The rate at `step` after all schedules."""
    for schedule in schedules:
        rate = schedule(rate, step)
    return rate
