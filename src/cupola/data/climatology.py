"""Climatologies, which ACC is relative to: time means, or means by day of year, hour or month."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from cupola.data.field_source import Array
from cupola.data.fields import open_fields
from cupola.data.matching import Expected, MatchedFields
from cupola.data.times import Calendar
from cupola.data.xarray_fields import XarrayFields
from cupola.errors import DataError
from cupola.files.datasets import open_datasets
from cupola.files.scientific import read_array
from cupola.structures.climate import published_climate
from cupola.structures.grids import Grid

DAYS = ("dayofyear", "day_of_year", "doy", "day")
HOURS = ("hour", "hour_of_day")
MONTHS = ("month", "month_of_year")


class Climatology:
    """The climatological state [C, H, W] of some channels at a time, in a model's units and grid.

    path: FourCastNet's time_means.npy ([1, C, H, W], with its rows and channels), or netCDF or zarr
    with the dimensions dayofyear (and hour, as WeatherBench 2 publishes it), month, or none.
    Raises DataError for a file that has none of these forms, or lacks a channel.
    """

    def __init__(
        self, path: Path, channels: Sequence[str], units: Sequence[str], grid: Grid
    ) -> None:
        self._path = path
        self._expected = Expected(channels, units, grid)
        self._mean: Array | None = None
        self._data: Any = None
        if path.suffix == ".npy":
            self._mean = published_climate(read_array(path), channels, grid, str(path))
            return
        datasets = open_datasets(path) if path.exists() else []
        data = datasets[0] if len(datasets) == 1 else None
        self._dims = {} if data is None else _find(data.dims)
        if self._dims:
            self._data = data
            return
        fields = MatchedFields(open_fields(path), self._expected)
        if fields.source.segments != (1,):
            raise DataError(
                f"{path}: {sum(fields.source.segments)} times, which is no climatology; it needs"
                " the dimension dayofyear or month, or a single mean"
            )
        self._mean = fields.read(0, 0)

    def at(self, number: float | None, calendar: Calendar) -> Array:
        """The climatology at a time, a number of the calendar, [C, H, W]."""
        if self._mean is not None:
            return self._mean
        if number is None or calendar.name is None:
            raise DataError(
                f"{self._path}: by {', '.join(self._dims)}, and the forecast has no date"
            )
        date = calendar.label(number)
        if isinstance(date, np.datetime64):
            date = date.item()
        return self._read(self._places(date))

    def _places(self, date: Any) -> tuple[tuple[str, int], ...]:
        wanted = {"day": date.timetuple().tm_yday, "month": date.month, "hour": date.hour}
        found = []
        for kind, dim in self._dims.items():
            size = self._data.sizes[dim]
            usual = np.arange(size) * 24 // size if kind == "hour" else np.arange(size) + 1
            values = self._data[dim].values if dim in self._data.coords else usual
            away = np.abs(np.asarray(values, float) - wanted[kind])
            if kind == "hour":
                away = np.minimum(away, 24 - away)
            found.append((dim, int(away.argmin())))
        return tuple(found)

    @lru_cache(maxsize=4)  # noqa: B019 - a few states, as long as the climatology
    def _read(self, places: tuple[tuple[str, int], ...]) -> Array:
        chosen = self._data.isel(dict(places)).drop_vars(
            [dim for dim, _ in places], errors="ignore"
        )
        source = XarrayFields(chosen, str(self._path))
        return MatchedFields(source, self._expected).read(0, 0)


def _find(dims: Any) -> dict[str, str]:
    kinds = {"day": DAYS, "hour": HOURS, "month": MONTHS}
    found = {
        kind: str(dim) for kind, names in kinds.items() for dim in dims if str(dim).lower() in names
    }
    return found if {"day", "month"} & set(found) else {}
