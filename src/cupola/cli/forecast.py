"""`cupola forecast BUNDLE [START] --init 2018-01-01T00 --steps 28 --out out.zarr`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cupola.cli.options import Device, Offline, Optimization, Revision

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from cupola.cli.forecast_inputs import ExampleInputs, FileInputs, Start
    from cupola.cli.forecast_outputs import Outputs
    from cupola.data.climatology import Climatology
    from cupola.metrics.forecast import LeadTimes
    from cupola.runtime.predictors.forecast import ForecastPredictor

    Array = NDArray[np.float32]

app = typer.Typer(add_completion=False)

StartFile = Annotated[
    Path | None,
    typer.Argument(
        help="netCDF, zarr, GRIB or HDF5: a file, a folder or a pattern of files"
        " [an example of the bundle]."
    ),
]
Dates = Annotated[
    list[str] | None,
    typer.Option(
        help="Date to start from, such as 2018-01-01T00; several with commas, or a range"
        " START/END/STEP such as 2018-01-01/2018-01-31/12h. May be repeated.",
        metavar="DATE",
    ),
]
Climate = Annotated[
    Path | None,
    typer.Option(help="Climatology for ACC: time_means.npy, or netCDF by day of year."),
]
Region = Annotated[
    list[str] | None,
    typer.Option(help="Region to score, as WeatherBench 2 names it (tropics, europe, ...)."),
]


@app.command()
def forecast(
    bundle: Annotated[str, typer.Argument(help="A shipped bundle, a folder, or hf://ORG/NAME.")],
    start: StartFile = None,
    steps: Annotated[int, typer.Option(min=1, help="Number of steps.")] = 28,
    init: Dates = None,
    out: Annotated[Path | None, typer.Option(help="File to write, .nc or .zarr.")] = None,
    convention: Annotated[
        str, typer.Option(help="Of that file: cf, wb (WeatherBench 2) or e2s (earth2studio).")
    ] = "cf",
    time: Annotated[int, typer.Option(min=0, help="Number of the snapshot, or example.")] = 0,
    truth: Annotated[
        Path | None, typer.Option(help="The truth, matched by valid time; may be START.")
    ] = None,
    climate: Climate = None,
    region: Region = None,
    scores: Annotated[
        Path | None, typer.Option(help="File for the scores: .json, .csv or .nc.")
    ] = None,
    members: Annotated[int, typer.Option(min=1, help="Size of the ensemble.")] = 1,
    amplitude: Annotated[float, typer.Option(help="Noise, in standard deviations.")] = 0.3,
    seed: Annotated[int, typer.Option(help="Seed of the noise.")] = 0,
    animation: Annotated[Path | None, typer.Option(help="GIF file of one channel.")] = None,
    channel: Annotated[str | None, typer.Option(help="Its channel [the first].")] = None,
    plot: Annotated[Path | None, typer.Option(help="Image file of the scores.")] = None,
    spectra: Annotated[Path | None, typer.Option(help="Image file of the last spectra.")] = None,
    revision: Revision = None,
    offline: Offline = False,
    device: Device = None,
    optimization: Optimization = "auto",
) -> None:
    """Roll a model forward in time, write each state, and compare with the truth if it is given.

    The file's coordinates decide: latitudes and longitudes are brought to the model's order and
    back, units are converted, and the truth is found by its time. What does not fit is an error.
    """
    from cupola.bundles import Bundle
    from cupola.cli.forecast_outputs import Outputs, plot_scores
    from cupola.errors import InputError
    from cupola.runtime.load import load_predictor
    from cupola.runtime.optimize.memory import keep_freed_memory

    opened = Bundle.load(bundle, revision, offline)
    if opened.task != "forecast":
        raise InputError(f"{bundle} is a {opened.task} model; forecast needs a forecast model")
    keep_freed_memory()
    predictor: Any = load_predictor(opened, device=device, optimization=optimization)
    inputs = open_inputs(predictor, start, init or [], time, truth)
    if inputs.members > 1 and members not in (1, inputs.members):
        raise InputError(f"{start} has {inputs.members} members; leave out --members {members}")
    members = max(members, inputs.members)
    table = new_table(predictor, region or [], scores is not None)
    means = open_climate(predictor, climate)
    with Outputs(predictor, inputs, out, convention, steps, members, animation, channel) as outputs:
        for each in watched(inputs):
            run(predictor, inputs, each, outputs, table, means, steps, members, amplitude, seed)
    if truth is not None and start is not None and not table.steps:
        raise InputError(inputs.no_truth())
    report(predictor, inputs, table, scores)
    plot_scores(predictor, table, plot, spectra)


def report(
    predictor: "ForecastPredictor",
    inputs: "ExampleInputs | FileInputs",
    table: "LeadTimes",
    path: Path | None,
) -> None:
    """Print the scores, and write them to a file."""
    from cupola.cli.forecast_outputs import print_scores, write_scores
    from cupola.errors import InputError

    print_scores(predictor, table, len(inputs.labels()))
    if path is not None:
        if not table.steps:
            raise InputError("--scores needs a truth for the valid times; name it with --truth")
        write_scores(path, predictor, table, inputs.labels())


def open_inputs(
    predictor: "ForecastPredictor",
    start: Path | None,
    dates: list[str],
    number: int,
    truth: Path | None,
) -> "ExampleInputs | FileInputs":
    """The starts of an example or a file."""
    from cupola.cli.forecast_inputs import ExampleInputs, FileInputs

    if start is None:
        return ExampleInputs(predictor, number, dates)
    return FileInputs(predictor, start, dates, number, truth)


def new_table(predictor: "ForecastPredictor", names: list[str], usual: bool) -> "LeadTimes":
    """An empty table of scores; `usual` adds the tropics and extratropics of a global grid."""
    from cupola.metrics.forecast import LeadTimes
    from cupola.structures.regions import USUAL, region_mask

    grid = predictor.grid
    assert grid is not None
    rows = grid.rows
    if not names and usual and grid.spherical and min(rows) < -60 and max(rows) > 60:
        names = [name for name in USUAL if name != "global"]
    regions = {name: region_mask(name, grid) for name in ["global", *names]}
    return LeadTimes(weights=grid.weights(), regions=regions)


def open_climate(predictor: "ForecastPredictor", path: Path | None) -> "Climatology | None":
    """The climatology of the model's channels."""
    from cupola.data.climatology import Climatology

    if path is None:
        return None
    assert predictor.grid is not None
    units = predictor.shown_units[: len(predictor.prognostic)]
    return Climatology(path, predictor.prognostic, units, predictor.grid)


def watched(inputs: Any) -> Any:
    """The starts, with a progress bar if there are several."""
    from rich.console import Console
    from rich.progress import track

    count = len(inputs.labels())
    bar = Console(stderr=True)
    return track(inputs.starts(), "starts", count, console=bar, disable=count < 2, transient=True)


def run(
    predictor: "ForecastPredictor",
    inputs: "ExampleInputs | FileInputs",
    start: "Start",
    outputs: "Outputs",
    table: "LeadTimes",
    climate: "Climatology | None",
    steps: int,
    members: int,
    amplitude: float,
    seed: int,
) -> None:
    """One forecast: writes its states and adds their scores."""
    import torch

    seconds = start.number if predictor.step_seconds is not None else None
    outputs.begin()
    first = first_state(predictor, start, members, seconds)
    outputs.add(0, first, inputs.truth(start, 0))

    def forcings(step: int) -> Any:
        found = inputs.forcings(start, step)
        return None if found is None else torch.from_numpy(found)

    states = predictor.stream(start.state, steps, members, amplitude, seed, seconds, forcings)
    for number, state in enumerate(states, 1):
        actual = inputs.truth(start, number)
        outputs.add(number, state.numpy(), actual)
        if actual is not None:
            means = climate_at(predictor, inputs, start, number, climate)
            scored = state[:, : len(actual)]
            table.update(number, scored, torch.from_numpy(actual), means)


def climate_at(
    predictor: "ForecastPredictor",
    inputs: "ExampleInputs | FileInputs",
    start: "Start",
    step: int,
    climate: "Climatology | None",
) -> Any:
    """The climatology at the valid time of a step, NaN for diagnostics; None without one."""
    import torch

    if climate is None:
        return None
    away = step * (predictor.step_seconds or predictor.interval)
    number = None if start.number is None else start.number + away
    found = torch.from_numpy(climate.at(number, inputs.calendar))
    missing = len(predictor.diagnostics)
    return torch.cat([found, found.new_full((missing, *found.shape[1:]), torch.nan)])


def first_state(
    predictor: "ForecastPredictor", start: "Start", members: int, seconds: float | None
) -> "Array":
    """The start as it is written, [M, P, H, W]: unperturbed, with its diagnostics."""
    import numpy as np

    state = start.state if start.state.ndim == 4 else start.state[None]
    shown = state[:, : len(predictor.prognostic)]
    if predictor.diagnostics:
        sample = predictor.sample(start.state, 1, time=seconds)
        derived = predictor.physical(sample.state, sample.mask).numpy()
        shown = np.concatenate([shown, derived[:, len(predictor.prognostic) :]], axis=1)
    return shown if len(shown) == members else shown.repeat(members, axis=0)
