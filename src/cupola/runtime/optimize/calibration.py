"""Finds the fastest engine for a predictor by measuring on its example.

An engine that answers outside the task's tolerance is dropped, and so is one that takes more than
twice the time of the fastest. The others are timed in turns, and compared within each turn, so that
a machine that is busy for a while slows all of them. A faster engine is chosen only if it is ahead
by more than the error of the comparison; otherwise the simpler one is.
"""

import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from cupola.runtime.optimize.building import ADVICE
from cupola.runtime.optimize.comparison import Comparison, compared
from cupola.runtime.optimize.engines import Engine, Situation
from cupola.runtime.optimize.execution import Row
from cupola.runtime.optimize.network import EngineUnavailableError, Network
from cupola.runtime.optimize.registry import ENGINES
from cupola.runtime.optimize.stopwatch import timed, wall_timed
from cupola.runtime.optimize.tolerance import difference, raw_difference, tolerance_of, worst

TIMING = 5.0  # seconds for all timings together, of which each engine gets at least two
BUSY_TIMING = 40.0  # the same on a machine so busy that the comparison is not clear
ROUNDS, BUSY_ROUNDS = 9, 36
LEAST_ROUNDS = 2
SLOW = 2.0  # times the fastest
# The threads of a library look for more work for a while after a call, and would slow the engine
# that comes next in its turn.
SETTLING = 0.02


@dataclass
class Candidate:
    """An engine that can run here, with its model, its first times, and one time for each turn."""

    engine: Engine
    model: Any
    row: Row
    first: list[float] = field(default_factory=list)
    turns: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Outcome:
    """The chosen engine's model, a row for every engine, and the graphs not built in `seconds`.

    `error` is the largest of the comparisons that chose it; with `is_clear`, another measurement
    would choose the same.
    """

    engine: str
    model: Any
    rows: tuple[Row, ...]
    error: float
    is_clear: bool
    seconds: float
    awaited: tuple[str, ...] = ()


def calibrate(
    predictor: Any,
    samples: Sequence[Any],
    folder: Path | None,
    seconds: float,
    int8: bool = False,
    show_all: bool = False,
    nice: int = 0,
) -> Outcome:
    """Measures all engines on samples, the first of which is the one that is timed.

    seconds: in which graphs may be built, at the priority `nice`, and engines taken up. int8:
    whether engines in eight bits are candidates. show_all: measure those as well, without choosing
    them. The predictor stays as it is.
    """
    expected = answers(predictor, predictor.model, samples)
    end = time.monotonic() + seconds
    situation = Situation(
        predictor,
        predictor.model,
        samples[0],
        folder,
        seconds_left=lambda: end - time.monotonic(),
        nice=nice,
    )
    found = _Candidates(situation, samples, expected, int8)
    for engine in sorted(ENGINES.values(), key=lambda each: each.cost):
        if engine.exact or int8 or show_all:
            found.add(engine)
    found.measure()
    return found.outcome(seconds)


@contextmanager
def using(predictor: Any, model: Any) -> Iterator[None]:
    """The predictor with another model for a while."""
    own = predictor.model
    predictor.model = model
    try:
        yield
    finally:
        predictor.model = own


def answers(predictor: Any, model: Any, samples: Sequence[Any]) -> list[Any]:
    """The predictions of a model, one by one."""
    with using(predictor, model):
        return [predictor.run([sample])[0] for sample in samples]


class _Candidates:
    def __init__(
        self, situation: Situation, samples: Sequence[Any], expected: Sequence[Any], int8: bool
    ) -> None:
        self.situation, self.samples, self.expected = situation, samples, expected
        self.int8 = int8
        self.running: list[Candidate] = []
        self.rows: dict[str, Row] = {}

    def add(self, engine: Engine) -> None:
        """Makes an engine ready, and compares its answers; the row says why it is dropped."""
        reason = engine.missing(self.situation.device)
        if reason is None and self.running and self.situation.seconds_left() <= 0:
            reason = f"not measured: no time left; {ADVICE}"
        if reason is None:
            try:
                candidate = Candidate(engine, engine.model_of(self.situation), Row(engine.name))
                reason = self._checked(candidate)
            except EngineUnavailableError as error:
                reason = str(error)
            except Exception as error:  # a library of others, or a kernel that is not there
                reason = f"fails: {type(error).__name__}: {str(error).strip()[:200]}"
        if reason is not None:
            known = self.rows.get(engine.name) or Row(engine.name)
            self.rows[engine.name] = replace(known, reason=reason)

    def _checked(self, candidate: Candidate) -> str | None:
        """Adds a candidate whose answers are right and come in time; otherwise says why not."""
        engine, predictor = candidate.engine, self.situation.predictor
        same = candidate.model is self.situation.model  # eager: its answers are the expected ones
        found = self.expected if same else answers(predictor, candidate.model, self.samples)
        apart = [
            self._difference(candidate.model, *pair)
            for pair in zip(found, self.expected, strict=True)
        ]
        text = str(worst(apart))
        candidate.row = self.rows[engine.name] = Row(engine.name, None, text)
        allowed = tolerance_of(predictor.task, engine.exact)
        if not all(each.within(allowed) for each in apart):
            return "its answers differ by more than the task's tolerance"
        candidate.first.append(self._time(candidate))
        fastest = min([min(each.first) for each in self.running], default=float("inf"))
        if candidate.first[0] > SLOW * fastest:  # once more, as the machine may have been busy
            candidate.first.append(self._time(candidate))
        if min(candidate.first) > SLOW * fastest:
            self.rows[engine.name] = replace(candidate.row, seconds=min(candidate.first))
            return f"more than {SLOW:.0f} times slower than the fastest"
        self.running.append(candidate)
        return None

    def _difference(self, model: Any, found: Any, expected: Any) -> Any:
        """Of two predictions; of the network's results where there is nothing to compare."""
        situation = self.situation
        empty = hasattr(expected, "scores") and not len(expected)
        if not empty or situation._call is None:
            return difference(situation.predictor.task, found, expected)
        with torch.inference_mode():
            answer = getattr(model, Network(model).method)(*situation.call().args)
        return raw_difference(answer, situation.answer)

    def _time(self, candidate: Candidate) -> float:
        predictor = self.situation.predictor
        with using(predictor, candidate.model):
            clock = timed if self.situation.device.type == "cpu" else wall_timed
            time.sleep(SETTLING)
            return clock(lambda: predictor.run([self.samples[0]]))

    def measure(self) -> None:
        """Times the candidates in turns, for longer where their order is not clear."""
        began = time.monotonic()
        for number in range(BUSY_ROUNDS):
            seconds = time.monotonic() - began
            hurry = self.situation.seconds_left() <= 0
            done = number >= ROUNDS or seconds > TIMING
            if number >= (1 if hurry else LEAST_ROUNDS) and done:
                late = hurry or seconds > BUSY_TIMING
                if late or all(each.is_clear for each in self._choice()[1]):
                    break
            for candidate in self.running if number % 2 else reversed(self.running):
                candidate.turns.append(self._time(candidate))

    def _choice(self) -> tuple[Candidate, list[Comparison]]:
        """The fastest candidate that is ahead of all simpler ones, and the comparisons made."""
        chosen, *others = sorted(self.running, key=lambda each: self._order(each.engine.name))
        comparisons = []
        for candidate in others:
            if candidate.engine.exact or self.int8:
                comparisons.append(compared(candidate.turns, chosen.turns))
                if comparisons[-1].is_ahead:
                    chosen = candidate
        return chosen, comparisons

    def _order(self, engine: str) -> int:
        return list(ENGINES).index(engine)

    def outcome(self, seconds: float) -> Outcome:
        """What is chosen, after graphs had `seconds` to be built in."""
        chosen, comparisons = self._choice()
        for candidate in self.running:
            median = statistics.median(candidate.turns)
            self.rows[candidate.engine.name] = replace(candidate.row, seconds=median)
        rows = sorted(self.rows.values(), key=lambda each: self._order(each.engine))
        return Outcome(
            chosen.engine.name,
            chosen.model,
            tuple(rows),
            max([each.error for each in comparisons], default=0.0),
            all(each.is_clear for each in comparisons),
            seconds,
            tuple(self.situation.awaited),
        )
