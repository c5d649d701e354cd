"""Learning-rate schedules with MMEngine's names, arguments and rates.

A schedule changes the rate that the others left, step by step, as MMEngine's do: so several may
overlap. The rates of a step are computed from step 0 on, and resuming needs no state. Steps count
from 0. `rate_steps` has the formulas.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cupola.errors import BuildError, did_you_mean
from cupola.registry import without_scope
from cupola.train.rate_steps import (
    Advance,
    constant_steps,
    cosine_steps,
    exponential_steps,
    linear_steps,
    multi_steps,
    one_cycle,
    polynomial_steps,
    quadratic_steps,
    stairs,
)

Schedule = Callable[[float, int], float]  # (rate, step) -> rate


def multi_step(milestones: Sequence[int], gamma: float = 0.1) -> Schedule:
    """Multiplies the rate by `gamma` at each milestone."""
    ordered = sorted(milestones)
    return lambda rate, step: rate * gamma ** bisect_right(ordered, step)


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


@dataclass(frozen=True)
class Chained:
    """A schedule of MMEngine: it has an effect every `every` steps from `begin` until `end`.

    These two count in units of `every` steps. After the end the rate stays as it is.
    """

    advance: Advance
    begin: int
    end: int
    every: int = 1

    def changed(self, rate: float, base: float, step: int) -> float:
        """The rate at a step, from the one before it."""
        unit, rest = divmod(step, self.every)
        if rest or not self.begin <= unit < self.end:
            return rate
        return self.advance(rate, base, unit - self.begin)

    def __call__(self, rate: float, step: int) -> float:
        """The rate at a step, if there is no other schedule."""
        return Rates([self])(rate, step)


class Rates:
    """The rates that schedules give, one after the other: those of MMEngine first.

    `self(rate, step)` is the rate at a step where the config has `rate`.
    """

    def __init__(self, schedules: Sequence[Schedule]) -> None:
        self._chain = [each for each in schedules if isinstance(each, Chained)]
        # MMEngine changes the rates of epochs after those of steps, but for the first step.
        self._later = sorted(self._chain, key=lambda each: each.every > 1)
        self._others = [each for each in schedules if not isinstance(each, Chained)]
        self._last: dict[float, tuple[int, float]] = {}  # rate of the config -> (step, rate)

    def __call__(self, rate: float, step: int) -> float:
        at, now = self._last.get(rate, (-1, rate))
        if at > step:
            at, now = -1, rate
        while at < step and self._chain:
            at += 1
            for each in self._later if at else self._chain:
                now = each.changed(now, rate, at)
        self._last[rate] = (at, now)
        for other in self._others:
            now = other(now, step)
        return now


# MMEngine's names -> (our function, those of its arguments that count steps or epochs).
KINDS: dict[str, tuple[Callable[..., Advance], tuple[str, ...]]] = {
    "MultiStepLR": (multi_steps, ("milestones",)),
    "StepLR": (stairs, ("step_size",)),
    "ExponentialLR": (exponential_steps, ()),
    "LinearLR": (linear_steps, ("last",)),
    "QuadraticWarmupLR": (quadratic_steps, ("length",)),
    "ConstantLR": (constant_steps, ("last",)),
    "CosineAnnealingLR": (cosine_steps, ("T_max",)),
    "PolyLR": (polynomial_steps, ("last",)),
    "OneCycleLR": (one_cycle, ("total_steps",)),
}
# The policies of MMDetection 2.x, functions of the step.
VERSION_2: dict[str, Callable[..., Schedule]] = {
    "Version2CosineLR": cosine,
    "Version2PolyLR": polynomial,
}
UNUSED = ("verbose", "last_step")  # arguments of MMEngine without effect here


def build_schedule(cfg: Mapping[str, Any], steps_per_epoch: int, max_steps: int) -> Schedule:
    """A schedule from its config, whose rates are MMEngine's.

    With `by_epoch` (the default) it counts in epochs and changes the rate between them; with
    convert_to_iter_based in each step. Without `end` it lasts as long as the run. Raises BuildError
    for an unknown type or argument.
    """
    arguments = {key: value for key, value in without_scope(cfg).items() if key not in UNUSED}
    kind = arguments.pop("type", None)
    if kind not in KINDS and kind not in VERSION_2:
        raise BuildError(f"unknown param_scheduler type {kind!r}{did_you_mean(str(kind), KINDS)}")
    per_epoch = bool(arguments.pop("by_epoch", True))
    whole_epochs = not arguments.pop("convert_to_iter_based", False) and per_epoch
    every = steps_per_epoch if whole_epochs else 1
    unit = steps_per_epoch if per_epoch and not whole_epochs else 1  # of the arguments
    begin = int(arguments.pop("begin", 0)) * unit
    given = arguments.pop("end", None)
    end = max(begin + 1, max_steps // every) if given is None else int(given) * unit
    if end <= begin:
        raise BuildError(f"param_scheduler {kind}: end is {end}, not above begin, {begin}")
    try:
        if kind in VERSION_2:
            span = end - begin if kind == "Version2CosineLR" else end
            made = VERSION_2[kind](begin, span, **arguments)
            return lambda rate, step: made(rate, step // every)
        if arguments.get("total_steps") and arguments["total_steps"] * unit < end - begin - 1:
            raise BuildError(
                f"param_scheduler {kind}: total_steps is {arguments['total_steps'] * unit}, and "
                f"the run has {end - begin} steps after its begin"
            )
        maker, counted = KINDS[kind]
        for key in counted:
            if arguments.get(key) is not None:
                value = arguments[key]
                arguments[key] = [v * unit for v in value] if key == "milestones" else value * unit
            elif key in ("milestones", "step_size"):
                raise BuildError(f"param_scheduler {kind}: needs {key}")
            else:
                arguments[key] = end - begin - (key == "last")
        return Chained(maker(**arguments), begin, end, every)
    except TypeError as error:
        raise BuildError(f"param_scheduler {kind}: {error}") from None


def scheduled_rate(rate: float, step: int, schedules: Sequence[Schedule]) -> float:
    """The rate at `step` after all schedules."""
    return Rates(schedules)(rate, step)
