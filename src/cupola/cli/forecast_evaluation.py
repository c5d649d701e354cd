"""`cupola evaluate FORECAST_MODEL --data FILE`: errors from every snapshot of a file."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cupola.runtime.predictors.forecast import ForecastPredictor

STEPS = 4  # of each forecast, as far as the file has the truth


def evaluate_forecasts(predictor: "ForecastPredictor", path: Path) -> dict[str, float]:
    """{"rmse_t2m_step1": ..., "bias_t2m_step1": ...} over all starts that have a truth.

    Weighted by the area of the rows, in the units of each channel. DataError if no two snapshots
    are one step apart.
    """
    import torch

    from cupola.cli.forecast import new_table
    from cupola.cli.forecast_inputs import FileInputs
    from cupola.errors import DataError

    inputs = FileInputs(predictor, path, [], 0, path)
    inputs.start_everywhere()
    table = new_table(predictor, [], False)
    for start in inputs.starts():
        truths = [inputs.truth(start, number) for number in range(1, STEPS + 1)]
        count = max((n for n, truth in enumerate(truths, 1) if truth is not None), default=0)
        seconds = start.number if predictor.step_seconds is not None else None

        def forcings(step: int, start=start) -> torch.Tensor | None:  # type: ignore[no-untyped-def]
            found = inputs.forcings(start, step)
            return None if found is None else torch.from_numpy(found)

        states = predictor.stream(start.state, count, time=seconds, forcings=forcings)
        for number, (state, truth) in enumerate(zip(states, truths, strict=False), 1):
            if truth is not None:
                table.update(number, state, torch.from_numpy(truth))
    if not table.steps:
        raise DataError(f"{path}: no two snapshots are one step of the model apart")
    return {
        f"{measure}_{name}_step{step}": value
        for step in table.steps
        for measure in ("rmse", "bias")
        for name, value in zip(predictor.shown, table.mean(step, measure).tolist(), strict=False)
    }
