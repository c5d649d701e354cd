"""Fields of an xarray dataset (netCDF, zarr, GRIB): its variables and levels become channels."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from cupola.data.field_source import Array, FieldSource
from cupola.data.times import Calendar, Numbers, calendar_of, stretches
from cupola.data.xarray_axes import coordinates, find_axes, lead_seconds, level_values
from cupola.errors import DataError
from cupola.structures.grids import Grid
from cupola.structures.variables import channel_name, find_variable


@dataclass(frozen=True)
class Part:
    """A channel: the variable that holds it, and its place along that variable's levels."""

    channel: str
    variable: str
    level: str | None = None
    place: int = 0


@dataclass(frozen=True)
class Stretch:
    """A segment: where it is along the outer dimensions, its first place, its times."""

    at: dict[str, int]
    first: int
    times: Numbers | None
    length: int
    member: int


class XarrayFields(FieldSource):
    """Variables [(sample, member, time, lead, level,) rows, columns], in any order.

    A variable with levels gives one channel for each, named like `z500`; one without time is the
    same at all times. Samples, members and the starts of forecasts are segments of their own.
    """

    def __init__(self, dataset: Any, where: str = "the file") -> None:
        self._data, self.name = dataset, where
        self.axes = find_axes(dataset, where)
        self._along = self.axes.lead or self.axes.time  # the dimension of a segment's times
        self._parts = self._find_parts()
        self.channels = tuple(part.channel for part in self._parts)
        self.units = tuple(
            str(dataset[part.variable].attrs.get("units", "")) for part in self._parts
        )
        self.grid = Grid(
            tuple(coordinates(dataset, self.axes.rows).tolist()),
            tuple(coordinates(dataset, self.axes.columns).tolist()),
            self.axes.spherical and {self.axes.rows, self.axes.columns} <= set(dataset.coords),
        )
        self.calendar = self._find_calendar()
        self._stretches = [stretch for run in self._runs() for stretch in run]
        self.segments = tuple(stretch.length for stretch in self._stretches)
        self.members = dataset.sizes[self.axes.member] if self.axes.member else 1

    # -- channels

    def _find_parts(self) -> list[Part]:
        flat = {self.axes.rows, self.axes.columns}
        parts: list[Part] = []
        for name, variable in self._data.data_vars.items():
            if flat <= set(variable.dims) and variable.dtype.kind in "fiu":
                parts += self._split(str(name), variable)
        repeated = {part.channel for part in parts}
        return parts if len(repeated) == len(parts) else _unambiguous(parts)

    def _split(self, name: str, variable: Any) -> list[Part]:
        axes = self.axes
        known = {axes.rows, axes.columns, axes.time, axes.lead, axes.member, axes.version}
        rest = [d for d in variable.dims if d not in {*known, *axes.samples, *axes.single}]
        if len(rest) > 1:
            raise DataError(
                f"{self.name}: variable {name!r} has several dimensions of levels: {rest}"
            )
        if not rest:
            level = self._scalar_level()
            return [Part(self._channel(name, variable, level), name)]
        dim = str(rest[0])
        coordinate = self._data.coords.get(dim)
        if coordinate is not None and coordinate.dtype.kind in "UOST":
            names = [str(value) for value in coordinate.values]
            return [Part(channel_name(each), name, dim, i) for i, each in enumerate(names)]
        if coordinate is None:
            raise DataError(
                f"{self.name}: dimension {dim!r} of variable {name!r} has no coordinate; it is"
                " neither time, level, member nor sample"
            )
        return [
            Part(self._channel(name, variable, value), name, dim, i)
            for i, value in enumerate(level_values(self._data, dim))
        ]

    def _scalar_level(self) -> float | None:
        """The level of a dataset on one pressure level that is no dimension."""
        for name in self._data.coords:
            value = self._data.coords[name]
            is_level = value.ndim == 0 and value.attrs.get("standard_name") == "air_pressure"
            if is_level or (value.ndim == 0 and str(name).lower() in _PRESSURES):
                return level_values(self._data, str(name))[0] if value.dtype.kind in "iuf" else None
        return None

    def _channel(self, name: str, variable: Any, level: float | None) -> str:
        height = self._data.coords.get("height", self._data.coords.get("heightAboveGround"))
        above = float(height) if height is not None and height.ndim == 0 else None
        found = find_variable(name, variable.attrs, level is not None, above)
        stem = found.name if found is not None else channel_name(name)
        has_level = level is not None and (found is None or found.on_levels)
        return f"{stem}{level:g}" if has_level and level is not None else stem

    # -- times

    def _find_calendar(self) -> Calendar:
        coordinate = self._data.coords.get(self.axes.time) if self.axes.time else None
        if coordinate is None:
            coordinate = self._scalar_time()
        return Calendar(None) if coordinate is None else calendar_of(coordinate.values)

    def _scalar_time(self) -> Any:
        for name in ("valid_time", "time", "init_time", "forecast_reference_time"):
            found = self._data.coords.get(name)
            if found is not None and found.ndim == 0 and name != self.axes.time:
                return found
        return None

    def _runs(self) -> list[list[Stretch]]:
        """For each combination of the outer dimensions, its stretches of equal steps."""
        axes = self.axes
        outer = [*axes.samples, *([axes.member] if axes.member else [])]
        if axes.lead and axes.time:
            outer.append(axes.time)
        sizes = [range(self._data.sizes[dim]) for dim in outer]
        return [self._run(dict(zip(outer, places, strict=True))) for places in product(*sizes)]

    def _run(self, at: dict[str, int]) -> list[Stretch]:
        member = at.get(self.axes.member or "", 0)
        times = self._times_at(at)
        if times is None:
            length = self._data.sizes[self._along] if self._along else 1
            return [Stretch(at, 0, None, length, member)]
        return [
            Stretch(at, start, times[start:stop], stop - start, member)
            for start, stop in stretches(times, self.calendar)
        ]

    def _times_at(self, at: dict[str, int]) -> Numbers | None:
        """The valid times along the last dimension."""
        data, axes = self._data, self.axes
        scalar = self._scalar_time()
        if axes.lead:
            start = 0.0 if scalar is None else self.calendar.numbers(scalar.values)[0]
            if axes.time and axes.time in data.coords:
                start = self.calendar.numbers(data.coords[axes.time].values)[at[axes.time]]
            if axes.lead not in data.coords:
                return None
            return start + lead_seconds(data.coords[axes.lead])
        if axes.time:
            valid = data.coords.get("valid_time", data.coords.get(axes.time))
            if valid is None or valid.dims != (axes.time,):
                valid = data.coords.get(axes.time)
            return None if valid is None else self.calendar.numbers(valid.values)
        return None if scalar is None else self.calendar.numbers(scalar.values)

    def times(self, segment: int) -> Numbers | None:
        """The valid times of a segment; None without a time coordinate."""
        return self._stretches[segment].times

    def member(self, segment: int) -> int:
        """Which member of the ensemble a segment is."""
        return self._stretches[segment].member

    # -- values

    def read(self, segment: int, time: int, channels: Sequence[int] | None = None) -> Array:
        """One snapshot, [C, H, W]; a variable is read once for all its levels."""
        stretch = self._stretches[segment]
        at: dict[str, int] = {**stretch.at, **dict.fromkeys(self.axes.single, 0)}
        if self._along:
            at[self._along] = stretch.first + time
        wanted = range(len(self.channels)) if channels is None else channels
        out = np.empty((len(wanted), *self.grid.shape), np.float32)
        groups: dict[str, list[int]] = {}
        for number, index in enumerate(wanted):
            groups.setdefault(self._parts[index].variable, []).append(number)
        for variable, numbers in groups.items():
            parts = [self._parts[wanted[number]] for number in numbers]
            out[numbers] = self._values(variable, parts, at)
        return out

    def _values(self, name: str, parts: Sequence[Part], at: dict[str, int]) -> Array:
        """Some levels of a variable, [N, H, W]."""
        variable, version = self._data[name], self.axes.version
        chosen: dict[str, Any] = {dim: i for dim, i in at.items() if dim in variable.dims}
        if parts[0].level is not None:
            chosen[parts[0].level] = [part.place for part in parts]
        if version is None or version not in variable.dims:
            return self._ordered(variable.isel(chosen), parts[0].level)
        first, *others = (
            self._ordered(variable.isel({**chosen, version: i}), parts[0].level)
            for i in range(self._data.sizes[version])
        )
        for other in others:
            first = np.where(np.isnan(first), other, first)
        return first

    def _ordered(self, variable: Any, level: str | None) -> Array:
        dims = (*((level,) if level else ()), self.axes.rows, self.axes.columns)
        values = np.asarray(variable.transpose(*dims).values, np.float32)
        return values if level else values[None]


_PRESSURES = ("pressure_level", "plev", "isobaricinhpa", "isobaric", "pressure")


def _unambiguous(parts: Sequence[Part]) -> list[Part]:
    """The first variable of each channel keeps its name, others are called as in the file."""
    seen: set[str] = set()
    named = []
    for part in parts:
        channel = part.channel if part.channel not in seen else part.variable
        if channel not in seen:
            named.append(Part(channel, part.variable, part.level, part.place))
            seen.add(channel)
    return named
