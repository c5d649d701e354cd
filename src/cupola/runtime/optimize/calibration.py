"""Finds the fastest engine for a predictor by measuring on its example.

An engine that answers outside the task's tolerance is dropped, and so is one that takes more than
twice the time of the fastest. The others are timed in turns. A faster engine is chosen only if it
is ahead by more than the noise of the measurement; otherwise the simpler one is.
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
from cupola.runtime.optimize.engines import Engine, Situation
from cupola.runtime.optimize.execution import Row
from cupola.runtime.optimize.network import EngineUnavailableError, Network
from cupola.runtime.optimize.registry import ENGINES
from cupola.runtime.optimize.tolerance import difference, raw_difference, tolerance_of, worst

TIMING = 5.0  # seconds for all timings together, of which each engine gets at least two
ROUNDS = 9
LEAST_ROUNDS = 2
MARGIN = 0.03  # by which a faster engine must be ahead, whatever the noise
MOST_NOISE = 0.25
SLOW = 2.0  # times the fastest


@dataclass
class Candidate:
    """An engine that can run here, with its model."""

    engine: Engine
    model: Any
    row: Row
    seconds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


@dataclass(frozen=True)
class Outcome:
    """The chosen engine's model, and a row for every engine."""

    engine: str
    model: Any
    rows: tuple[Row, ...]
    noise: float
    awaited: tuple[str, ...] = ()  # files of graphs that were not built in time


def calibrate(
    predictor: Any,
    samples: Sequence[Any],
    folder: Path | None,
    seconds: float,
    int8: bool = False,
    show_all: bool = False,
    background: bool = False,
) -> Outcome:
    """Measures all engines on samples, the first of which is the one that is timed.

    seconds: in which graphs may be built and engines taken up; with `background`, a graph that
    takes longer is finished for a later start. int8: whether engines in eight bits are candidates.
    show_all: measure those as well, without choosing them. The predictor stays as it is.
    """
    expected = answers(predictor, predictor.model, samples)
    end = time.monotonic() + seconds
    situation = Situation(
        predictor,
        predictor.model,
        samples[0],
        folder,
        seconds_left=lambda: end - time.monotonic(),
        background=background,
    )
    found = _Candidates(situation, samples, expected)
    for engine in sorted(ENGINES.values(), key=lambda each: each.cost):
        if engine.exact or int8 or show_all:
            found.add(engine)
    found.measure()
    return found.outcome(int8)


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
        self, situation: Situation, samples: Sequence[Any], expected: Sequence[Any]
    ) -> None:
        self.situation, self.samples, self.expected = situation, samples, expected
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
        self._time(candidate)
        fastest = min([min(each.seconds) for each in self.running], default=float("inf"))
        if candidate.seconds[0] > SLOW * fastest:
            self._time(candidate)  # once more, as the machine may have been busy
        if min(candidate.seconds) > SLOW * fastest:
            self.rows[engine.name] = replace(candidate.row, seconds=min(candidate.seconds))
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

    def _time(self, candidate: Candidate) -> None:
        predictor = self.situation.predictor
        with using(predictor, candidate.model):
            began = time.perf_counter()
            predictor.run([self.samples[0]])
            candidate.seconds.append(time.perf_counter() - began)

    def measure(self) -> None:
        """Times the candidates in turns."""
        end = time.monotonic() + TIMING
        for number in range(ROUNDS):
            least = LEAST_ROUNDS if self.situation.seconds_left() > 0 else 1
            if number >= least and time.monotonic() > end:
                break
            for candidate in self.running if number % 2 else reversed(self.running):
                self._time(candidate)

    def outcome(self, int8: bool) -> Outcome:
        """The fastest candidate that is ahead of all simpler ones."""
        noise = self._noise()
        simplest_first = list(ENGINES)
        self.running.sort(key=lambda each: simplest_first.index(each.engine.name))
        chosen = self.running[0]
        for candidate in self.running:
            self.rows[candidate.engine.name] = replace(candidate.row, seconds=candidate.median)
            eligible = candidate.engine.exact or int8
            if eligible and candidate.median < chosen.median * (1 - max(MARGIN, noise)):
                chosen = candidate
        rows = sorted(self.rows.values(), key=lambda each: simplest_first.index(each.engine))
        awaited = tuple(self.situation.awaited)
        return Outcome(chosen.engine.name, chosen.model, tuple(rows), noise, awaited)

    def _noise(self) -> float:
        """The typical relative deviation of the first candidate's times, which is eager."""
        times = self.running[0].seconds[1:]
        middle = statistics.median(times)
        spread = statistics.median(abs(each - middle) for each in times)
        return min(MOST_NOISE, 1.5 * spread / middle)
