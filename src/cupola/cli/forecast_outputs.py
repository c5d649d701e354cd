"""What `cupola forecast` writes and prints: fields, scores, figures."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from cupola.cli.forecast_inputs import ExampleInputs, FileInputs
    from cupola.metrics.forecast import LeadTimes
    from cupola.runtime.predictors.forecast import ForecastPredictor

    Array = NDArray[np.float32]


class Outputs:
    """The files written during the forecast: the fields, and an animation of the first start."""

    def __init__(
        self,
        predictor: "ForecastPredictor",
        inputs: "ExampleInputs | FileInputs",
        out: Path | None,
        convention: str,
        steps: int,
        members: int,
        animation: Path | None,
        channel: str | None,
    ) -> None:
        from cupola.data.cf import ForecastLayout, forecast_writer
        from cupola.errors import InputError, did_you_mean
        from cupola.runtime.io.forecast_figures import Animation

        names = predictor.shown
        if channel is not None and channel not in names:
            raise InputError(f"no channel {channel!r}{did_you_mean(channel, names)}")
        assert predictor.grid is not None
        self._place = names.index(channel) if channel else 0
        self._members, self._alignment = members, inputs.alignment
        layout = ForecastLayout(
            names,
            predictor.grid if inputs.alignment is None else inputs.alignment.grid,
            step=predictor.interval,
            step_unit=predictor.interval_unit,
            starts=inputs.labels(),
            count=steps,
            members=members if members > 1 else None,
            units=predictor.shown_units,
            convention=convention,
            attributes={"title": f"Forecast by {predictor.name} {predictor.version}"},
        )
        self._writer = forecast_writer(out, layout) if out else None
        self._animation = Animation.of(predictor, animation, self._place) if animation else None
        self._number = -1

    def __enter__(self) -> "Outputs":
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if self._writer:
            self._writer.close()
        if self._animation and kind is None:
            self._animation.save()

    def begin(self) -> None:
        """The next states belong to the next start."""
        self._number += 1
        if self._writer:
            self._writer.begin(self._number)

    def add(self, number: int, state: "Array", truth: "Array | None") -> None:
        """Adds the state [M, C, H, W] number `number`; 0 is the start."""
        if self._writer:
            ordered = state if self._alignment is None else self._alignment.to_file(state)
            self._writer.append(ordered if self._members > 1 else ordered[0])
        if self._animation and self._number == 0:
            shown = [state.mean(axis=0)[self._place]]
            has_truth = truth is not None and self._place < len(truth)
            self._animation.add([*shown, truth[self._place]] if has_truth else shown, number)  # type: ignore[index]


def print_scores(predictor: "ForecastPredictor", table: "LeadTimes", starts: int) -> None:
    """Prints the scores by lead time; nothing without a truth."""
    from rich.console import Console
    from rich.table import Table

    if not table.steps:
        return
    measures = [name for name in table.measures if name != "relative_l2"]
    known = [name for name in table.regions if name != "global"]
    title = None if starts == 1 else f"{starts} starts; RMSE: root of the mean over all of them"
    heads = [_HEADS.get(name, name) for name in measures]
    region_head = ["region"] if known else []
    printed = Table(
        f"lead ({predictor.interval_unit})", "channel", *region_head, *heads, title=title
    )
    for step, region, values in table.rows():
        for i, name in enumerate(predictor.shown[: len(values["rmse"])]):
            lead = f"{step * predictor.interval:g}"
            cells = [
                f"{values[m][i]:.4f}" if m == "acc" else f"{values[m][i]:.4g}" for m in measures
            ]
            printed.add_row(lead, name, *([region] if known else []), *cells)
    Console(markup=False).print(printed)


_HEADS = {"rmse": "RMSE", "acc": "ACC", "mae": "MAE", "crps": "CRPS"}


def write_scores(
    path: Path, predictor: "ForecastPredictor", table: "LeadTimes", starts: Sequence[Any]
) -> None:
    """Writes all scores to a .json, .csv or .nc file; InputError for another suffix."""
    from cupola.cli.forecast_scores import WRITERS
    from cupola.errors import InputError

    if path.suffix not in WRITERS:
        raise InputError(f"{path}: scores are written to {', '.join(WRITERS)}")
    WRITERS[path.suffix](path, predictor, table, starts)


def plot_scores(
    predictor: "ForecastPredictor", table: "LeadTimes", plot: Path | None, spectra: Path | None
) -> None:
    """Draws the scores by lead time and the last spectra into the files that are given."""
    if not table.steps:
        return
    names = predictor.shown
    if plot is not None:
        from cupola.runtime.io.forecast_figures import plot_lead_times

        curves = {
            _HEADS.get(key, key): {
                name: [table.mean(step, key)[i].item() for step in table.steps]
                for i, name in enumerate(names)
            }
            for key in table.measures
            if key in ("rmse", "acc", "crps", "spread")
        }
        leads = [step * predictor.interval for step in table.steps]
        units = dict(zip(names, predictor.shown_units, strict=False))
        plot_lead_times(plot, leads, predictor.interval_unit, curves, units)
    if spectra is not None and table.spectra:
        from cupola.runtime.io.forecast_figures import plot_spectra

        last = max(table.spectra)
        lines = {
            "forecast": table.mean(last, "spectrum"),
            "truth": table.mean(last, "true_spectrum"),
        }
        plot_spectra(spectra, {name: line[0].tolist() for name, line in lines.items()})
