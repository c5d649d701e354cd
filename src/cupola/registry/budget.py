"""The budget of a build: how many modules and numbers a config may ask for.

A config of a few bytes can describe a model of terabytes. While a `BuildBudget` is in force, every
module and every tensor is charged before it takes memory, so that such a config ends in one
BuildError that names the part of the config.
"""

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from cupola.errors import BuildError

MAX_MODULES = 10_000  # the largest published detectors have some 3,000, BLOOM-176B 1,100
MAX_PARAMETERS = 10**12  # numbers on the meta device, where they take no memory
MAX_ALLOCATED = 2 * 10**9  # numbers that take memory: 8 GB in float32
MAX_TABLES = 20_000_000  # numbers that constructors compute, such as position tables
# Environment variables; each command sets them from --max-modules and --max-parameters.
MODULES_VARIABLE, PARAMETERS_VARIABLE = "CUPOLA_MAX_MODULES", "CUPOLA_MAX_PARAMETERS"
ITEM = 8  # what an item of a list costs, in numbers
NAMED = 4  # of a part's settings, how many an error names


class BudgetError(BuildError):
    """A config asks for more modules or numbers than its build may have."""


@dataclass(frozen=True)
class Limits:
    """The most modules of a build, its numbers on the meta device, and its numbers in memory."""

    modules: int = MAX_MODULES
    parameters: int = MAX_PARAMETERS
    allocated: int = MAX_ALLOCATED

    @staticmethod
    def given(modules: int | None = None, parameters: int | None = None) -> "Limits":
        """Limits as the arguments say, or the environment, or the defaults. BuildError."""
        modules = modules or _from_environment(MODULES_VARIABLE) or MAX_MODULES
        numbers = parameters or _from_environment(PARAMETERS_VARIABLE)
        return Limits(modules, numbers or MAX_PARAMETERS, numbers or MAX_ALLOCATED)


def _from_environment(variable: str) -> int | None:
    text = os.environ.get(variable)
    if not text:
        return None
    try:
        return max(int(float(text)), 1)
    except (ValueError, OverflowError):
        raise BuildError(f"{variable} is {text!r:.60}, not a number") from None


@dataclass
class BuildBudget:
    """What one build has asked for so far, by the path of the config's part that asked for it."""

    limits: Limits
    modules: Counter[str] = field(default_factory=Counter)
    parameters: Counter[str] = field(default_factory=Counter)
    allocated: Counter[str] = field(default_factory=Counter)
    # The parts under construction: path in the config, class name, arguments.
    parts: list[tuple[str, str, Mapping[str, Any]]] = field(default_factory=list)
    _totals: Counter[str] = field(default_factory=Counter)

    @contextmanager
    def part(self, where: str, name: str, arguments: Mapping[str, Any]) -> Iterator[None]:
        """Charges what is made meanwhile to this part of the config."""
        self.parts.append((where, name, arguments))
        try:
            yield
        finally:
            self.parts.pop()

    def charge_module(self, _: object = None) -> None:
        """Pays for a module that is about to be constructed."""
        self._charge("modules", 1, self.limits.modules, "--max-modules")

    def charge_numbers(self, shape: Sequence[int], count: int, is_meta: bool) -> None:
        """Pays for a tensor that is about to be made."""
        kind = "parameters" if is_meta else "allocated"
        limit = self.limits.parameters if is_meta else self.limits.allocated
        self._charge(kind, count, limit, "--max-parameters", shape)

    def _charge(
        self, kind: str, count: int, limit: int, option: str, shape: Sequence[int] | None = None
    ) -> None:
        where, name, arguments = self.parts[-1] if self.parts else ("model", "", {})
        self._totals[kind] += count
        own: Counter[str] = getattr(self, kind)
        own[where] += count
        if self._totals[kind] <= limit:
            return
        what = "modules" if kind == "modules" else "numbers"
        total = self._totals[kind]
        rest = f" of {total} in all" if own[where] <= limit else ""
        tensor = f", the last of them in a tensor of shape {_shape(shape)}" if shape else ""
        raise BudgetError(
            f"{where}: {name} asks for {own[where]} {what}{rest}{tensor}; a build may have {limit}"
            f". {_largest(arguments)}If that is meant, raise the limit with {option}"
        )


def _shape(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape[:8]))


def _largest(arguments: Mapping[str, Any]) -> str:
    """The arguments that ask for most: large numbers and long lists."""
    sizes = {key: _size(value) for key, value in arguments.items()}
    names = sorted((key for key in sizes if sizes[key] > 1), key=lambda key: -sizes[key])[:NAMED]
    shown = (f"{str(key)[:40]}={_value(arguments[key])}" for key in names)
    return f"Its largest settings: {', '.join(shown)}. " if names else ""


def _size(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | list | tuple):
        return 0
    if isinstance(value, int):
        return abs(value)
    return max(len(value), *map(_size, value[:1000])) if value else 0


def _value(value: Any) -> str:
    if isinstance(value, int):
        return str(value) if abs(value) < 10**30 else f"an integer of {value.bit_length()} bits"
    return f"{len(value)} items" if len(value) > 8 else repr(value)[:60]


_active: ContextVar[BuildBudget | None] = ContextVar("cupola_build_budget", default=None)
current_budget = _active.get


def reserve(count: int) -> None:
    """Charges a list of `count` items that a constructor is about to make. BudgetError."""
    if (budget := current_budget()) is not None:
        budget.charge_numbers((count,), ITEM * count, is_meta=False)


@contextmanager
def in_force(budget: BuildBudget) -> Iterator[None]:
    """Makes `budget` the current one."""
    token = _active.set(budget)
    try:
        yield
    finally:
        _active.reset(token)
