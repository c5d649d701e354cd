"""Executes a language model as a name says; with "auto" by the measured choice, which is kept.

The measurement is language_choice.py's.
"""

import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from cupola.bundles.optimizations import AUTO, LANGUAGE
from cupola.errors import CupolaError, DataError
from cupola.files import read_settings
from cupola.runtime.optimize.execution import Execution, Row
from cupola.runtime.optimize.language import optimize
from cupola.runtime.optimize.language_choice import (
    LanguageChoice,
    candidates,
    compared,
    example_ids,
    logits_of,
    optimize_fastest,
    step_seconds,
)

Report = Callable[[str], None]


def execute(
    predictor: Any, name: str, small: str | None, path: Path | None, report: Report
) -> Execution:
    """Sets how a predictor's model is executed.

    small: why "auto" does not measure, if the model is too small for that. path: the file of the
    choice; None keeps it nowhere.
    """
    if name not in AUTO:
        if unchanged := candidates(predictor.model)[name]:
            report(f"{predictor.name}: {name} changes nothing here: {unchanged}")
        _apply(predictor, LanguageChoice(name))
        return Execution(name, name)
    reason = small or why_not_chosen(predictor)
    if reason is not None:
        return Execution(name, predictor.optimization, (Row("none", reason=reason),))
    choice = _kept(predictor, path, report)
    if choice is not None:
        _apply(predictor, choice)
        return Execution(name, choice.optimization, rows_of(predictor.model, choice))
    return _measured(predictor, name, path, report)


def _measured(predictor: Any, name: str, path: Path | None, report: Report) -> Execution:
    report(f"{predictor.name}: measuring which storage of the matrices is the fastest")
    choice = optimize_fastest(predictor.model, int8_allowed=name == "auto-int8")
    rows = rows_of(predictor.model, choice)
    _apply(predictor, choice)
    for row in rows:
        report(f"{predictor.name}: {row.line(row.engine == choice.optimization)}")
    if path is not None:
        part = path.with_name(f".{path.name}.{os.getpid()}")
        with suppress(OSError):
            part.write_text(json.dumps(choice.to_json(), indent=1) + "\n")
            part.replace(path)
        part.unlink(missing_ok=True)
    return Execution(name, choice.optimization, rows, measured=True)


def rows_of(model: Any, choice: LanguageChoice) -> tuple[Row, ...]:
    """A row for each optimization, with the storages of the chosen one."""
    storages = ", ".join(f"{name} {kind}" for name, kind in choice.storages.items())
    found = difference_of(choice.difference)
    chosen = f"{found}; {storages}" if storages else found
    return tuple(
        Row(
            name,
            choice.seconds.get(name),
            chosen if name == choice.optimization else "",
            reason or "",
        )
        for name, reason in candidates(model).items()
    )


def difference_of(relative: float) -> str:
    """A difference of logits, to print."""
    return f"logits {relative:.1e} of the largest"


def measure_each(predictor: Any, execution: Execution) -> tuple[Row, ...]:
    """The rows of an execution, with the time and the difference of every optimization.

    Each is applied in turn, with the storages that are likely to be the fastest where "auto" has
    not measured them. The last is "none".
    """
    model, known = predictor.model, {row.engine: row for row in execution.rows}
    optimize(model, "none")
    ids = example_ids(model)
    expected, rows = logits_of(model, ids), []
    for name, reason in candidates(model).items():
        row = known.get(name, Row(name, reason=reason or ""))
        if not reason and row.seconds is None:
            optimize(model, name)
            difference, _ = compared(expected, logits_of(model, ids))
            text = row.difference or ("" if name == "none" else difference_of(difference))
            row = Row(name, step_seconds(model), text, row.reason)
        rows.append(row)
    optimize(model, "none")
    return tuple(rows)


def why_not_chosen(predictor: Any) -> str | None:
    """Why "auto" leaves a language model as it is; None if it measures."""
    if predictor.device.type != "cpu":
        return f"the model is on {predictor.device}, where it computes in the type of its weights"
    if predictor.model.group.size > 1:
        return "the model is split over processes"
    return "deterministic, as it was asked for" if predictor.reproducible else None


def _apply(predictor: Any, choice: LanguageChoice) -> None:
    predictor.optimization, predictor.storages = choice.optimization, dict(choice.storages) or None
    predictor.apply_optimization()


def _kept(predictor: Any, path: Path | None, report: Report) -> LanguageChoice | None:
    """What an earlier process has written; None, with a line, if it is of no use."""
    if path is None or not path.exists():
        return None
    try:
        content = read_settings(path, DataError)
        choice = LanguageChoice(**content)
        if choice.optimization not in LANGUAGE or not isinstance(choice.storages, dict):
            raise ValueError(f"the optimization {choice.optimization!r} is unknown")
        _apply(predictor, choice)
    except (CupolaError, LookupError, TypeError, ValueError, RuntimeError) as error:
        report(f"{predictor.name}: measuring again, since the kept choice is of no use: {error}")
        predictor.optimization, predictor.storages = "none", None
        return None
    return choice
