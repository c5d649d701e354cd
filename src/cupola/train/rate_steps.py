"""The formulas of MMEngine's schedules: a rate from the one before it.

Source: mmengine/optim/scheduler/param_scheduler.py.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence

from cupola.errors import BuildError

# (the rate before, the rate of the config, steps since the schedule's begin) -> the rate
Advance = Callable[[float, float, int], float]


def constant_steps(last: int, factor: float = 1 / 3) -> Advance:
    """Warm-up: `factor` of the rate until the last step."""

    def advance(rate: float, base: float, step: int) -> float:
        if step == 0:
            return rate * factor
        return rate / factor if step == last else rate

    return advance


def linear_steps(last: int, start_factor: float = 1 / 3, end_factor: float = 1.0) -> Advance:
    """Warm-up: the factor moves from `start_factor` to `end_factor` at the last step."""
    slope = end_factor - start_factor

    def advance(rate: float, base: float, step: int) -> float:
        if step == 0:
            return rate * start_factor
        before = last * start_factor + (step - 1) * slope
        if before == 0:  # from a factor of 0, which MMEngine does not take
            return base * slope / last
        return rate * (1 + slope / before)

    return advance


def quadratic_steps(length: int) -> Advance:
    """Warm-up: the square of the part of the steps, as MMDetection has it for YOLOX."""

    def advance(rate: float, base: float, step: int) -> float:
        return (rate if step else 0.0) + base * (2 * step + 1) / length**2

    return advance


def exponential_steps(gamma: float) -> Advance:
    """Multiplies the rate by `gamma` in every step."""
    return lambda rate, base, step: rate * gamma if step else rate


def stairs(step_size: int, gamma: float = 0.1) -> Advance:
    """Multiplies the rate by `gamma` every `step_size` steps."""
    return lambda rate, base, step: rate * gamma if step and step % step_size == 0 else rate


def multi_steps(milestones: Sequence[int], gamma: float = 0.1) -> Advance:
    """Multiplies the rate by `gamma` at each milestone."""
    times = Counter(milestones)
    return lambda rate, base, step: rate * gamma ** times[step]


def cosine_steps(
    T_max: int, eta_min: float | None = None, eta_min_ratio: float | None = None
) -> Advance:
    """Half a cosine to the minimum after T_max steps, and up again."""
    if eta_min is not None and eta_min_ratio is not None:
        raise BuildError("param_scheduler CosineAnnealingLR: eta_min or eta_min_ratio, not both")

    def level(step: int) -> float:
        return 1 + math.cos(math.pi * step / T_max)

    def advance(rate: float, base: float, step: int) -> float:
        least = base * eta_min_ratio if eta_min_ratio is not None else eta_min or 0.0
        if step == 0:
            return rate
        if (step - 1 - T_max) % (2 * T_max) == 0:  # after the lowest rate
            return rate + (base - least) * (1 - math.cos(math.pi / T_max)) / 2
        return level(step) / level(step - 1) * (rate - least) + least

    return advance


def polynomial_steps(last: int, power: float = 1.0, eta_min: float = 0.0) -> Advance:
    """Falls to `eta_min` at the last step as (1 - done) ** power."""

    def advance(rate: float, base: float, step: int) -> float:
        if step == 0:
            return rate
        return (rate - eta_min) * (1 - 1 / (last - step + 1)) ** power + eta_min

    return advance


def one_cycle(
    total_steps: int,
    eta_max: float = 0.0,
    pct_start: float = 0.3,
    anneal_strategy: str = "cos",
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
    three_phase: bool = False,
) -> Advance:
    """Up to `eta_max` and down again, whatever the rate of the config (arXiv 1708.07120)."""
    if anneal_strategy not in ("cos", "linear"):
        raise BuildError(
            f"param_scheduler OneCycleLR: anneal_strategy is {anneal_strategy!r}; use cos or linear"
        )
    first = eta_max / div_factor
    phases = [(pct_start * total_steps - 1, first, eta_max)]
    if three_phase:
        phases.append((2 * pct_start * total_steps - 2, eta_max, first))
    phases.append((total_steps - 1, phases[-1][2], first / final_div_factor))

    def advance(rate: float, base: float, step: int) -> float:
        start = 0.0
        for end, left, right in phases:
            if step <= end or end == total_steps - 1:
                done = (step - start) / (end - start)
                if anneal_strategy == "cos":
                    done = (1 - math.cos(math.pi * done)) / 2
                return left + (right - left) * done
            start = end
        return rate

    return advance
