"""`cupola explain MODEL --optimizations`: every engine, its time, and whether it runs here."""

from pathlib import Path

from cupola.errors import InputError


def print_engines(
    source: str, weights: Path | None, device: str | None, revision: str | None, offline: bool
) -> None:
    """Measures all engines, keeps the choice of "auto" for later starts, and prints a table."""
    from cupola.runtime import tasks
    from cupola.runtime.load import load_predictor, open_bundle
    from cupola.runtime.optimize.language_execution import measure_each
    from cupola.runtime.optimize.machine import processor
    from cupola.runtime.optimize.selection import measure_all, optimize

    bundle = open_bundle(source, weights, revision, offline)
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
    from rich.console import Console
    from rich.table import Table

    table = Table("engine", "runs here", "time", "difference from eager", "chosen")
    for row in rows:
        runs = row.seconds is not None or bool(row.difference)
        table.add_row(
            row.engine,
            "yes" if runs and not row.reason else row.reason or "yes",
            "" if row.seconds is None else f"{1000 * row.seconds:.1f} ms",
            "" if row.engine == "eager" else row.difference,
            "auto" if row.engine == chosen else "",
        )
    Console().print(table)
    print(f"{processor()['name']}, {torch.get_num_threads()} threads, torch {torch.__version__}")
