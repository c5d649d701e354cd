"""Applies an optimization to a predictor: a named engine, or with "auto" the fastest one here.

The choice of "auto" is kept in the cache folder (machine.py) for this model, processor, version of
torch and number of threads, and later starts use it without measuring. One that is made while the
machine is too busy to compare engines is used at once by later starts, but measured again.
"""

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from cupola.bundles.optimizations import (
    ALL_SECONDS,
    AUTO,
    BUILD_SECONDS,
    checked,
)
from cupola.errors import InputError
from cupola.runtime.collection import without_collection
from cupola.runtime.optimize import calibration, choices, machine
from cupola.runtime.optimize.engines import Situation
from cupola.runtime.optimize.execution import Execution, Row
from cupola.runtime.optimize.language_execution import execute
from cupola.runtime.optimize.network import EngineUnavailableError
from cupola.runtime.optimize.registry import ENGINES

LEAST_PARAMETERS = 4_000_000  # of a model for which "auto" measures
WAIT = 30.0  # seconds for another process that measures the same, beyond those of its graphs


Report = Callable[[str], None]
Measure = Callable[[Path | None], calibration.Outcome]  # graphs are kept in the folder


def to_stderr(line: str) -> None:
    """Prints a line beside the results."""
    print(line, file=sys.stderr, flush=True)


def optimize(
    predictor: Any,
    optimization: str,
    samples: Sequence[Any] = (),
    *,
    seconds: float = BUILD_SECONDS,
    nice: int = 0,
    at_once: bool = False,
    report: Report = to_stderr,
) -> Execution:
    """Applies an optimization, in place: `predictor.model` becomes one for inference.

    samples: the bundle's example, and perhaps more to compare answers on. seconds: the time in
    which graphs may be built, at a priority lower by `nice`. at_once: "auto" measures and builds
    nothing but the storages of a language model; without a kept choice for `seconds` the execution
    is provisional. InputError for an unknown name, and for an engine that cannot run here.
    """
    name = checked(optimization, predictor.task)
    if predictor.task == "language":
        found = _language(predictor, name, report)
    elif name in AUTO:

        def measure(folder: Path | None) -> calibration.Outcome:
            int8 = name == "auto-int8"
            return calibration.calibrate(predictor, samples, folder, seconds, int8, nice=nice)

        found = _automatic(predictor, name, samples, None if at_once else measure, seconds, report)
    else:
        found = _named(predictor, name, samples)
    predictor.execution = found
    return found


def _language(predictor: Any, name: str, report: Report) -> Execution:
    small = why_not_measured(predictor, ["a prompt"]) if name in AUTO else None
    if name not in AUTO or small is not None:
        return execute(predictor, name, small, None, report)
    folder = machine.folder_of(_key(predictor))
    if folder is None:
        return execute(predictor, name, None, None, report)
    with choices.locked(folder, WAIT):
        return execute(predictor, name, None, choices.file_of(folder, name), report)


def needs_samples(predictor: Any, optimization: str) -> bool:
    """Whether `optimize` would use the bundle's example."""
    name = checked(optimization, predictor.task)
    if predictor.task == "language" or name == "eager":
        return False
    return name not in AUTO or is_measured(predictor.model)


def _named(predictor: Any, name: str, samples: Sequence[Any]) -> Execution:
    engine = ENGINES[name]
    reason = engine.missing(_device(predictor))
    if reason is None and name != "eager":
        try:
            if not samples:
                raise EngineUnavailableError("there is no example to trace the network with")
            folder = machine.folder_of(_key(predictor))
            end = time.monotonic() + ALL_SECONDS
            about = Situation(
                predictor,
                predictor.model,
                samples[0],
                folder,
                seconds_left=lambda: end - time.monotonic(),
            )
            predictor.model = engine.model_of(about)
        except EngineUnavailableError as error:
            reason = str(error)
    if reason is not None:
        raise InputError(f"optimization {name!r} cannot run {predictor.name} here: {reason}")
    return Execution(name, name)


def _automatic(
    predictor: Any,
    wish: str,
    samples: Sequence[Any],
    measure: Measure | None,
    seconds: float,
    report: Report,
) -> Execution:
    reason = why_not_measured(predictor, samples)
    if reason is not None:
        return Execution(wish, "eager", (Row("eager", reason=reason),))
    key = _key(predictor)
    folder = machine.folder_of(key)
    if measure is None:
        return _at_once(predictor, wish, samples, folder, key, seconds, report)
    if folder is None:
        report(
            f"{predictor.name}: the choice cannot be kept; set CUPOLA_CACHE to a folder of yours"
        )
        return _measured(predictor, wish, None, key, measure, report)
    kept = _kept(predictor, wish, samples, folder, key, seconds, report, final=True)
    if kept is not None:
        return kept
    with choices.locked(folder, seconds + WAIT) as mine:  # perhaps who had it before has measured
        kept = _kept(predictor, wish, samples, folder, key, seconds, report, final=True)
        if kept is not None:
            return kept
        if mine:
            return _measured(predictor, wish, folder, key, measure, report)
    report(f"{predictor.name}: another process still measures")
    return _at_once(predictor, wish, samples, folder, key, seconds, report)


def _at_once(
    predictor: Any,
    wish: str,
    samples: Sequence[Any],
    folder: Path | None,
    key: dict[str, Any],
    seconds: float,
    report: Report,
) -> Execution:
    """Executes with what an earlier process has chosen, else with what needs no measuring."""
    kept = None
    if folder is not None:
        kept = _kept(predictor, wish, samples, folder, key, seconds, report)
    return kept or _unmeasured(predictor, wish, samples, report)


def _unmeasured(predictor: Any, wish: str, samples: Sequence[Any], report: Report) -> Execution:
    name = "folded"
    try:
        about = Situation(predictor, predictor.model, samples[0], build=False)
        predictor.model = ENGINES[name].model_of(about)
    except EngineUnavailableError:
        name = "eager"
    report(f"{predictor.name}: {name}, as {wish!r} has not been measured on this machine")
    row = Row(name, reason="until the engines have been measured")
    return Execution(wish, name, (row,), provisional=True)


def why_not_measured(predictor: Any, samples: Sequence[Any]) -> str | None:
    """Why "auto" leaves a model as it is; None if it measures."""
    if not is_measured(predictor.model):
        return f"the model has fewer than {LEAST_PARAMETERS / 1e6:.0f} million parameters"
    return None if samples else "there is no example to measure on"


def is_measured(model: Any) -> bool:
    """Whether a model is large enough for "auto" to measure."""
    return sum(each.numel() for each in model.parameters()) >= LEAST_PARAMETERS


def _kept(
    predictor: Any,
    wish: str,
    samples: Sequence[Any],
    folder: Path,
    key: dict[str, Any],
    seconds: float,
    report: Report,
    final: bool = False,
) -> Execution | None:
    """What an earlier process chose; None if there is nothing of use.

    Provisional if it has built fewer graphs than can be built in `seconds`; None then if it has to
    be `final`.
    """
    path = choices.file_of(folder, wish)
    try:
        found = choices.read_choice(path, key)
        if found is None or (final and found.complete_for < seconds):
            return None
        if found.engine != "eager":
            engine = ENGINES[found.engine]
            if reason := engine.missing(_device(predictor)):
                raise EngineUnavailableError(f"{found.engine}: {reason}")
            about = Situation(predictor, predictor.model, samples[0], folder, build=False)
            with without_collection():
                predictor.model = engine.model_of(about)
    except (choices.StaleChoiceError, EngineUnavailableError, KeyError) as error:
        report(f"{predictor.name}: measuring again: {error}")
        with suppress(OSError):
            path.unlink(missing_ok=True)
        return None
    return Execution(wish, found.engine, found.rows, provisional=found.complete_for < seconds)


def _measured(
    predictor: Any,
    wish: str,
    folder: Path | None,
    key: dict[str, Any],
    measure: Measure,
    report: Report,
) -> Execution:
    report(f"{predictor.name}: measuring which engine is the fastest on {key['processor']}")
    outcome = measure(folder)
    _keep(predictor, folder, wish, key, outcome, report)
    for row in outcome.rows:
        report(f"{predictor.name}: {row.line(row.engine == outcome.engine)}")
    predictor.model = outcome.model
    return Execution(wish, outcome.engine, outcome.rows, measured=True)


def _keep(
    predictor: Any,
    folder: Path | None,
    wish: str,
    key: dict[str, Any],
    outcome: calibration.Outcome,
    report: Report,
) -> None:
    if not outcome.is_clear:
        report(f"{predictor.name}: too busy to compare engines; a later start measures again")
    if folder is not None:
        choices.write_choice(choices.file_of(folder, wish), key, outcome)


def measure_all(
    predictor: Any, samples: Sequence[Any], report: Report = to_stderr
) -> tuple[str, tuple[Row, ...]]:
    """Builds and measures every engine, and keeps the choice of "auto" for later starts."""
    if not samples:
        raise InputError(f"{predictor.name}: there is no example to measure on")
    key = _key(predictor)
    folder = machine.folder_of(key)
    outcome = calibration.calibrate(predictor, samples, folder, ALL_SECONDS, show_all=True)
    _keep(predictor, folder, "auto", key, outcome, report)
    if folder is None:
        report(
            f"{predictor.name}: the choice cannot be kept; set CUPOLA_CACHE to a folder of yours"
        )
    return outcome.engine, outcome.rows


def _key(predictor: Any) -> dict[str, Any]:
    digest = machine.model_digest(predictor.model, predictor.config)
    return machine.key_of(digest, _device(predictor))


def _device(predictor: Any) -> Any:
    import torch

    return getattr(predictor, "device", torch.device("cpu"))
