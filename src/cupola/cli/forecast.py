"""`cupola forecast BUNDLE [START] --steps 28 --out out.zarr`."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cupola.cli.options import Offline, Revision

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from cupola.data.cf import ForecastLayout
    from cupola.metrics.forecast import LeadTimes
    from cupola.runtime.predictors.forecast import ForecastPredictor

    Truth = Callable[[int], NDArray[np.float32] | None]

app = typer.Typer(add_completion=False)


@app.command()
def forecast(
    bundle: Annotated[str, typer.Argument(help="A shipped bundle, a folder, or hf://ORG/NAME.")],
    start: Annotated[
        Path | None, typer.Argument(help="netCDF, zarr or HDF5 [an example of the bundle].")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Number of steps.")] = 28,
    out: Annotated[Path | None, typer.Option(help="File to write, .nc or .zarr.")] = None,
    time: Annotated[int, typer.Option(min=0, help="Number of the snapshot, or example.")] = 0,
    truth: Annotated[Path | None, typer.Option(help="The truth, to compare; may be START.")] = None,
    members: Annotated[int, typer.Option(min=1, help="Size of the ensemble.")] = 1,
    amplitude: Annotated[float, typer.Option(help="Noise, in standard deviations.")] = 0.3,
    seed: Annotated[int, typer.Option(help="Seed of the noise.")] = 0,
    animation: Annotated[Path | None, typer.Option(help="GIF file of one channel.")] = None,
    channel: Annotated[str | None, typer.Option(help="Its channel [the first].")] = None,
    plot: Annotated[Path | None, typer.Option(help="Image file of the errors.")] = None,
    spectra: Annotated[Path | None, typer.Option(help="Image file of the last spectra.")] = None,
    revision: Revision = None,
    offline: Offline = False,
) -> None:
    """Roll a model forward in time, write each state, and compare with the truth if it is given."""
    from cupola.bundles import Bundle
    from cupola.errors import InputError
    from cupola.metrics.forecast import LeadTimes
    from cupola.runtime.load import load_predictor

    opened = Bundle.load(bundle, revision, offline)
    if opened.task != "forecast":
        raise InputError(f"{bundle} is a {opened.task} model; forecast needs a forecast model")
    predictor: Any = load_predictor(opened)
    first, true_state = (
        from_example(predictor, time)
        if start is None
        else from_files(predictor, start, time, truth)
    )
    layout = layout_of(predictor, members, start, time)
    outputs = Outputs(predictor, layout, out, animation, channel, true_state)
    table = LeadTimes(weights=predictor.grid.weights())
    with outputs:
        outputs.add(0, first[None].repeat(members, axis=0), first)
        for number, state in enumerate(predictor.stream(first, steps, members, amplitude, seed), 1):
            actual = true_state(number)
            outputs.add(number, state.numpy(), actual)
            if actual is not None:
                import torch

                table.update(number, state.mean(dim=0), torch.from_numpy(actual))
    print_errors(predictor, table)
    plot_errors(predictor, table, plot, spectra)


def from_example(
    predictor: "ForecastPredictor", number: int
) -> "tuple[NDArray[np.float32], Truth]":
    """The initial state and the truth of a recorded example."""
    run = predictor.example(number).numpy()
    return run[0], lambda step: run[step] if step < len(run) else None


def from_files(
    predictor: "ForecastPredictor", start: Path, time: int, truth: Path | None
) -> "tuple[NDArray[np.float32], Truth]":
    """The initial state, and a reader of the truth that loads one state at a time."""
    from cupola.data.fields import open_fields
    from cupola.errors import DataError

    def rows_of(path: Path) -> "Callable[[int], NDArray[np.float32]]":
        source = open_fields(path)
        places = source.select(predictor.channels)
        height = predictor.grid.shape[0]
        if source.segments[0] <= time:
            raise DataError(f"{path}: {source.segments[0]} snapshots, so there is no number {time}")
        lengths[path] = source.segments[0]
        return lambda index: source.read(0, index)[places, :height]

    lengths: dict[Path, int] = {}
    first = rows_of(start)(time)
    if truth is None:
        return first, lambda step: None
    read = rows_of(truth)
    return first, lambda step: read(time + step) if time + step < lengths[truth] else None


def layout_of(
    predictor: "ForecastPredictor", members: int, start: Path | None, time: int
) -> "ForecastLayout":
    """What the output file holds; with the start's calendar if it has one."""
    import numpy as np

    from cupola.data.cf import ForecastLayout
    from cupola.data.fields import XarrayFields, open_fields

    moment = None
    if start is not None and isinstance(source := open_fields(start), XarrayFields):
        found = source.start(time)
        moment = found if isinstance(found, np.datetime64) else None
    return ForecastLayout(
        predictor.channels,
        predictor.grid,
        step=predictor.interval,
        step_unit=predictor.interval_unit,
        start=moment,
        members=members if members > 1 else None,
        units=predictor.units,
        attributes={"title": f"Forecast by {predictor.name} {predictor.version}"},
    )


class Outputs:
    """The files written during the forecast: the fields and the animation."""

    def __init__(
        self,
        predictor: "ForecastPredictor",
        layout: "ForecastLayout",
        out: Path | None,
        animation: Path | None,
        channel: str | None,
        truth: "Truth",
    ) -> None:
        from cupola.data.cf import forecast_writer
        from cupola.errors import InputError, did_you_mean
        from cupola.runtime.io.forecast_figures import Animation

        names = predictor.channels
        if channel is not None and channel not in names:
            raise InputError(f"no channel {channel!r}{did_you_mean(channel, names)}")
        self._place = names.index(channel) if channel else 0
        self._members = layout.members
        self._writer = forecast_writer(out, layout) if out else None
        mean, std = (
            float(part.flatten()[self._place if part.numel() > 1 else 0])
            for part in (predictor.mean, predictor.std)
        )
        self._animation = Animation(animation, 2.5 * std, mean) if animation else None

    def __enter__(self) -> "Outputs":
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if self._writer:
            self._writer.close()
        if self._animation and kind is None:
            self._animation.save()

    def add(
        self, number: int, state: "NDArray[np.float32]", truth: "NDArray[np.float32] | None"
    ) -> None:
        """Adds the state [M, C, H, W] number `number`; 0 is the start."""
        if self._writer:
            self._writer.append(state if self._members else state[0])
        if self._animation:
            shown = [state.mean(axis=0)[self._place]]
            self._animation.add(shown if truth is None else [*shown, truth[self._place]])


def print_errors(predictor: "ForecastPredictor", table: "LeadTimes") -> None:
    """Prints the errors by lead time; nothing without a truth."""
    from rich.console import Console
    from rich.table import Table

    if not table.steps:
        return
    printed = Table(f"lead ({predictor.interval_unit})", "channel", "RMSE", "ACC")
    for step in table.steps:
        rmse, acc = table.mean(step, "rmse"), table.mean(step, "acc")
        for i, name in enumerate(predictor.channels):
            lead = f"{step * predictor.interval:g}"
            printed.add_row(lead, name, f"{rmse[i]:.4g}", f"{acc[i]:.4f}")
    Console().print(printed)


def plot_errors(
    predictor: "ForecastPredictor", table: "LeadTimes", plot: Path | None, spectra: Path | None
) -> None:
    """Draws the errors by lead time and the last spectra into the files that are given."""
    if not table.steps:
        return
    if plot is not None:
        from cupola.runtime.io.forecast_figures import plot_lead_times

        curves = {
            title: {
                name: [table.mean(step, key)[i].item() for step in table.steps]
                for i, name in enumerate(predictor.channels)
            }
            for title, key in (("RMSE", "rmse"), ("ACC", "acc"))
        }
        leads = [step * predictor.interval for step in table.steps]
        plot_lead_times(plot, leads, predictor.interval_unit, curves)
    if spectra is not None:
        from cupola.runtime.io.forecast_figures import plot_spectra

        last = table.steps[-1]
        lines = {
            "forecast": table.mean(last, "spectrum"),
            "truth": table.mean(last, "true_spectrum"),
        }
        plot_spectra(spectra, {name: line[0].tolist() for name, line in lines.items()})
