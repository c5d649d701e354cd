"""The conventions of forecast files: CF, WeatherBench 2 and earth2studio.

A schema says which dimensions a file has, and which variable (and level) a channel is.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cupola.data.times import SECONDS, Calendar
from cupola.errors import DataError, did_you_mean
from cupola.structures.grids import Grid
from cupola.structures.variables import channel_units, split_channel

CONVENTIONS = ("cf", "wb", "e2s")
HOUR = 3600.0


@dataclass(frozen=True)
class ForecastLayout:
    """The content of a forecast file.

    channels: ours. grid: rows and columns as written. step: time between two states, in
    `step_unit`. start: the time of the start state (datetime64 or a cftime date), None for a model
    without a calendar; starts: several of them. count: states after the start, None if they are not
    known beforehand. members: size of the ensemble, None for a single forecast.
    """

    channels: Sequence[str]
    grid: Grid
    step: float = 6.0
    step_unit: str = "hours"
    start: Any = None
    members: int | None = None
    units: Sequence[str] = ()
    attributes: dict[str, str] = field(default_factory=dict)
    starts: Sequence[Any] = ()
    count: int | None = None
    convention: str = "cf"

    @property
    def all_starts(self) -> list[Any]:
        """The start times; [None] without a calendar."""
        return list(self.starts) or [self.start]

    def unit_of(self, index: int) -> str:
        """The units of a channel; "1" where they are not known."""
        stated = self.units[index] if index < len(self.units) else ""
        return stated or channel_units(self.channels[index]) or "1"


@dataclass(frozen=True)
class Axis:
    """A coordinate: its values (None for one that grows), and its attributes."""

    name: str
    values: Any
    attributes: dict[str, Any]
    dims: tuple[str, ...] | None = None

    @property
    def along(self) -> tuple[str, ...]:
        """Its dimensions; its own name, unless stated."""
        return (self.name,) if self.dims is None else self.dims


@dataclass(frozen=True)
class Place:
    """Where a channel is written: a variable, and its index along the levels if it has them."""

    variable: str
    level: int | None
    attributes: dict[str, str]


class Schema:
    """Dimensions, coordinates and variables of a layout in its convention."""

    def __init__(self, layout: ForecastLayout) -> None:
        if layout.convention not in CONVENTIONS:
            hint = did_you_mean(layout.convention, CONVENTIONS)
            raise DataError(f"no convention {layout.convention!r}{hint}; known are {CONVENTIONS}")
        self.layout = layout
        self.calendar = _calendar(layout)
        self.starts = [_number(self.calendar, start) for start in layout.all_starts]
        spherical, cf = layout.grid.spherical, layout.convention == "cf"
        many = not cf or len(self.starts) > 1
        if many and layout.count is None:
            raise DataError("several starts, and the conventions wb and e2s, need a known length")
        self.start, self.lead, self.member = {
            "cf": ("forecast_reference_time", "forecast_period", "member")
            if many
            else ("", "time", "member"),
            "wb": ("time", "prediction_timedelta", "number"),
            "e2s": ("time", "lead_time", "ensemble"),
        }[layout.convention]
        long = layout.convention == "wb"
        names = ("latitude", "longitude") if long else ("lat", "lon")
        self.space = names if spherical else ("y", "x")
        self.levels = _levels(layout) if long else []
        self.places = [self._place(i) for i in range(len(layout.channels))]

    def dims(self, place: Place) -> tuple[str, ...]:
        """Dimensions of a variable."""
        member = (self.member,) if self.layout.members else ()
        start = (self.start,) if self.start else ()
        level = ("level",) if place.level is not None else ()
        if self.layout.convention == "cf":
            return (*start, self.lead, *member, *self.space)
        return (*member, *start, self.lead, *level, *self.space)

    def index(self, place: Place, start: int, step: int) -> tuple[Any, ...]:
        """Where a state of a channel goes in its variable."""
        at: dict[str, Any] = {self.start: start, self.lead: step, "level": place.level}
        return tuple(at.get(dim, slice(None)) for dim in self.dims(place))

    def axes(self) -> list[Axis]:
        """All coordinates."""
        layout = self.layout
        rows, columns = self._space_attributes()
        axes = [
            *self._time_axes(),
            Axis(self.space[0], np.array(layout.grid.rows), rows),
            Axis(self.space[1], np.array(layout.grid.columns), columns),
        ]
        if layout.members:
            about = {"standard_name": "realization", "long_name": "member of the ensemble"}
            axes.append(Axis(self.member, np.arange(layout.members), about))
        if self.levels:
            about = {"standard_name": "air_pressure", "units": "hPa", "positive": "down"}
            axes.append(Axis("level", np.array(self.levels), {**about, "axis": "Z"}))
        return axes

    def _time_axes(self) -> list[Axis]:
        layout, count = self.layout, self.layout.count
        leads = None if count is None else layout.step * np.arange(count + 1)
        if self.layout.convention != "cf":
            return [self._starts_axis(self.start, "time"), self._timedeltas(leads)]
        if not self.start:
            axes = [Axis("time", leads, self._since(self.starts[0], "time", layout.step_unit))]
            if self.calendar.name:
                about = self._since(self.starts[0], "forecast_reference_time", layout.step_unit)
                axes.append(Axis("forecast_reference_time", np.array(0.0), about, ()))
            return axes
        assert leads is not None
        period = {"standard_name": "forecast_period", "units": self._step_unit()}
        valid = np.subtract.outer(self.starts, [self.starts[0]])[:, 0] / self._unit_seconds()
        about = self._since(self.starts[0], "time", layout.step_unit)
        about.pop("axis", None)
        dims = (self.start, self.lead)
        return [
            self._starts_axis(self.start, "forecast_reference_time"),
            Axis(self.lead, leads, period),
            Axis("time", valid[:, None] + leads[None], about, dims),
        ]

    def _starts_axis(self, name: str, standard: str) -> Axis:
        first = self.starts[0]
        hours = (np.array(self.starts) - first) / (HOUR if self.calendar.name else 1.0)
        return Axis(name, hours, self._since(first, standard, "hours"))

    def _timedeltas(self, leads: Any) -> Axis:
        """Lead times that xarray reads as timedelta64."""
        about: dict[str, Any] = {"standard_name": "forecast_period", "long_name": "lead time"}
        if not self.calendar.name:
            return Axis(self.lead, leads, about)
        seconds = np.rint(leads * self._unit_seconds()).astype(np.int64)
        whole = not (seconds % 3600).any()
        about |= {"units": "hours" if whole else "seconds", "dtype": "timedelta64[ns]"}
        return Axis(self.lead, seconds // 3600 if whole else seconds, about)

    def _since(self, start: float, standard: str, unit: str) -> dict[str, Any]:
        """CF attributes of a time axis; a plain number if there is no calendar."""
        if not self.calendar.name:
            return {"long_name": "lead time" if standard == "time" else "start", "units": "1"}
        return {
            "standard_name": standard,
            "units": f"{unit} since {self.calendar.text(start)}",
            "calendar": self.calendar.name,
            **({"axis": "T"} if standard == "time" else {}),
        }

    def _unit_seconds(self) -> float:
        return SECONDS[self.layout.step_unit] if self.calendar.name else 1.0

    def _step_unit(self) -> str:
        return self.layout.step_unit if self.calendar.name else "1"

    def _space_attributes(self) -> tuple[dict[str, str], dict[str, str]]:
        if not self.layout.grid.spherical:
            return {"long_name": "y", "axis": "Y"}, {"long_name": "x", "axis": "X"}
        return (
            {"standard_name": "latitude", "units": "degrees_north", "axis": "Y"},
            {"standard_name": "longitude", "units": "degrees_east", "axis": "X"},
        )

    def _place(self, index: int) -> Place:
        layout = self.layout
        name = layout.channels[index]
        variable, level = split_channel(name)
        about = {"long_name": name, "units": layout.unit_of(index)}
        if layout.convention == "cf" and self.calendar.name:
            about["coordinates"] = "time" if self.start else "forecast_reference_time"
        if variable is None or not layout.grid.spherical:
            return Place(name, None, about)
        about |= {"standard_name": variable.standard_name}
        if layout.convention == "cf":
            return Place(name, None, about)
        if layout.convention == "e2s":
            own = variable.e2s or variable.name
            return Place(own if level is None else f"{own}{level:g}", None, about)
        about["long_name"] = variable.long_name.replace("_", " ")
        place = None if level is None else self.levels.index(level)
        return Place(variable.long_name, place, about)


def _levels(layout: ForecastLayout) -> list[float]:
    if not layout.grid.spherical:
        return []
    found = {split_channel(name)[1] for name in layout.channels}
    return sorted(level for level in found if level is not None)


def _calendar(layout: ForecastLayout) -> Calendar:
    from cupola.data.times import calendar_of

    first = layout.all_starts[0]
    known = first is not None and layout.step_unit in SECONDS
    return calendar_of(np.asarray(first)) if known else Calendar(None)


def _number(calendar: Calendar, start: Any) -> float:
    if calendar.name:
        return float(calendar.numbers(np.asarray(start))[0])
    return float(start) if isinstance(start, int | float) else 0.0
