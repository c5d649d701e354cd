"""`cupola explain MODEL --optimizations`: every engine, its time, and whether it runs here."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cupola.errors import InputError

if TYPE_CHECKING:
    from cupola.runtime.optimize.execution import Row


@dataclass(frozen=True)
class MeasuredEngines:
    """The engines of a model as measured on this machine, and the one that "auto" takes."""

    rows: Sequence["Row"]
    chosen: str
    machine: str

    def to_dict(self) -> dict[str, Any]:
        """For the page; times in milliseconds."""
        rows = [
            {
                "engine": row.engine,
                "runs": runs(row),
                "ms": None if row.seconds is None else 1000 * row.seconds,
                "difference": "" if row.engine == "eager" else row.difference,
                "chosen": row.engine == self.chosen,
            }
            for row in self.rows
        ]
        return {"rows": rows, "machine": self.machine}


def runs(row: "Row") -> str:
    """Whether an engine runs here: yes, or why not."""
    return row.reason or "yes"


def measure_engines(
    source: str,
    weights: str | None,
    device: str | None,
    revision: str | None,
    offline: bool,
    overrides: Sequence[str] = (),
) -> MeasuredEngines:
    """Measures all engines, and keeps the choice of "auto" for later starts."""
    from cupola.runtime import tasks
    from cupola.runtime.load import load_predictor, open_bundle
    from cupola.runtime.optimize.language_execution import measure_each
    from cupola.runtime.optimize.machine import processor
    from cupola.runtime.optimize.selection import measure_all, optimize

    bundle = open_bundle(source, weights, revision, offline, overrides)
    predictor = load_predictor(bundle, device=device)
    if predictor.model is None:
        raise InputError(f"{predictor.name}: there is no model to execute")
    if predictor.task == "language":
        execution = optimize(predictor, "auto")
        chosen, rows = execution.engine, measure_each(predictor, execution)
    else:
        samples = tasks.find(bundle.task).calibration_samples(predictor, bundle)
        chosen, rows = measure_all(predictor, samples)
    import torch

    count = torch.get_num_threads()
    threads = f"{count} thread{'s' if count > 1 else ''}"
    about = f"{processor()['name']}, {threads}, torch {torch.__version__}"
    return MeasuredEngines(rows, chosen, about)


def print_engines(engines: MeasuredEngines) -> None:
    """Prints a table of the engines."""
    from rich.console import Console
    from rich.table import Table

    table = Table("engine", "runs here", "time", "difference from eager", "chosen")
    for row in engines.to_dict()["rows"]:
        time = "" if row["ms"] is None else f"{row['ms']:.1f} ms"
        chosen = "auto" if row["chosen"] else ""
        table.add_row(row["engine"], row["runs"], time, row["difference"], chosen)
    Console(markup=False).print(table)
    print(engines.machine)
