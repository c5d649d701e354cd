"""Files of forecast scores: JSON, CSV and netCDF."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cupola.metrics.forecast import LeadTimes
    from cupola.runtime.predictors.forecast import ForecastPredictor


def _rows(predictor: "ForecastPredictor", table: "LeadTimes") -> Iterator[dict[str, Any]]:
    """One row for each lead time, region and channel."""
    units = (*predictor.shown_units, *("",) * len(predictor.shown))
    for step, region, values in table.rows():
        for i, channel in enumerate(predictor.shown[: len(values["rmse"])]):
            yield {
                "lead": round(step * predictor.interval, 9),
                "region": region,
                "channel": channel,
                "units": units[i],
                "starts": table.starts(step),
                **{
                    name: _plain(values[name][i].item())
                    for name in table.measures
                    if name in values
                },
            }


def _plain(value: float) -> float | None:
    return value if value == value else None


def _about(predictor: "ForecastPredictor", starts: Sequence[Any]) -> dict[str, Any]:
    from cupola.metrics.forecast import MEASURES

    return {
        "model": predictor.name,
        "version": predictor.version,
        "lead_unit": predictor.interval_unit,
        "starts": [str(start) for start in starts if start is not None],
        "weights": "cosine of latitude" if predictor.grid and predictor.grid.spherical else "equal",
        "measures": {name: text for name, (_, text) in MEASURES.items()},
    }


def write_json(
    path: Path, predictor: "ForecastPredictor", table: "LeadTimes", starts: Sequence[Any]
) -> None:
    """{"scores": [{lead, region, channel, rmse, ...}], "rank_histogram": [...], ...}."""
    import json

    histograms = [
        {
            "lead": round(step * predictor.interval, 9),
            "region": region,
            "counts": dict(zip(predictor.shown, counts.tolist(), strict=False)),
        }
        for (step, region), counts in sorted(table.ranks.items())
    ]
    content = {**_about(predictor, starts), "scores": list(_rows(predictor, table))}
    if histograms:
        content["rank_histogram"] = histograms
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def write_csv(
    path: Path, predictor: "ForecastPredictor", table: "LeadTimes", starts: Sequence[Any]
) -> None:
    """One row for each lead time, region and channel."""
    import csv

    head = ["lead", "region", "channel", "units", "starts", *table.measures]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, head)
        writer.writeheader()
        writer.writerows(_rows(predictor, table))


def write_netcdf(
    path: Path, predictor: "ForecastPredictor", table: "LeadTimes", starts: Sequence[Any]
) -> None:
    """Variables [lead, region, channel]; spectra [lead, channel, wavenumber]; rank histograms."""
    import numpy as np
    import xarray

    from cupola.metrics.forecast import MEASURES

    steps, regions = table.steps, list(table.regions)
    channels = list(predictor.shown)
    dims = ("lead", "region", "channel")
    data: dict[str, Any] = {}
    for name in table.measures:
        values = np.full((len(steps), len(regions), len(channels)), np.nan)
        for step, region, found in table.rows():
            if name in found:
                numbers = found[name].numpy()
                values[steps.index(step), regions.index(region), : len(numbers)] = numbers
        data[name] = (dims, values, {"long_name": MEASURES[name][1]})
    if table.ranks:
        shape = (len(steps), len(regions), len(channels), table.members + 1)
        counts = np.zeros(shape)
        for (step, region), ranks in table.ranks.items():
            counts[steps.index(step), regions.index(region), : len(ranks)] = ranks.numpy()
        data["rank_histogram"] = ((*dims, "rank"), counts)
    if table.spectra and sorted(table.spectra) == steps:
        for name in ("spectrum", "true_spectrum"):
            lines = np.stack([table.mean(step, name).numpy() for step in steps])
            data[name] = (("lead", "channel", "wavenumber"), lines)
    leads = np.array([step * predictor.interval for step in steps])
    axes = {
        "lead": ("lead", leads, {"long_name": f"lead time ({predictor.interval_unit})"}),
        "region": regions,
        "channel": channels,
    }
    about = _about(predictor, starts)
    attributes = {k: str(about[k]) for k in ("model", "version", "weights")}
    attributes["starts"] = ", ".join(about["starts"])
    xarray.Dataset(data, axes, attributes).to_netcdf(path, engine="h5netcdf")


WRITERS = {".json": write_json, ".csv": write_csv, ".nc": write_netcdf}
