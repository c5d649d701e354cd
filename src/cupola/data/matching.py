"""Fields of a file as a model takes them: its channels, units, grid and times; or an error."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cupola.data.field_source import Array, FieldSource
from cupola.data.times import check_step
from cupola.errors import DataError
from cupola.structures.alignment import Alignment, align
from cupola.structures.grids import Grid
from cupola.structures.solar import forcing
from cupola.structures.units import conversion


@dataclass(frozen=True)
class Expected:
    """What a model expects of a file.

    channels, units: "" for units that are not stated. grid: None for any. step: seconds (plain
    numbers without a calendar) between states, None if not stated. calendar: CF's name, None if
    not stated.
    """

    channels: Sequence[str]
    units: Sequence[str] = ()
    grid: Grid | None = None
    step: float | None = None
    calendar: str | None = None


class MatchedFields:
    """Reads snapshots [C, H, W] of a source in a model's order, orientation and units.

    Channels that follow from the time alone (cos_zenith) are computed where the file has none.
    Raises DataError, which names both sides, for what has no exact conversion.
    """

    def __init__(self, source: FieldSource, expected: Expected) -> None:
        self.source, self.expected = source, expected
        self.grid = expected.grid or source.grid
        self.alignment: Alignment = align(self.grid, source.grid, source.name)
        self._computed = [
            i
            for i, name in enumerate(expected.channels)
            if name not in source.channels and forcing(name, 0.0, 0.0, Grid((), ())) is not None
        ]
        self._read = [i for i in range(len(expected.channels)) if i not in self._computed]
        self._places = source.select([expected.channels[i] for i in self._read])
        self._factors, self._offsets = self._conversions()
        self._check_calendar()

    def _conversions(self) -> tuple[Any, Any]:
        units = list(self.expected.units) or [""] * len(self.expected.channels)
        pairs = [
            conversion(
                self.source.units[place], units[i], self.expected.channels[i], self.source.name
            )
            for i, place in zip(self._read, self._places, strict=True)
        ]
        if all(pair == (1.0, 0.0) for pair in pairs):
            return None, None
        factors, offsets = np.array(pairs, np.float32).T
        return factors[:, None, None], offsets[:, None, None]

    def _check_calendar(self) -> None:
        from cupola.data.times import Calendar

        wanted, given = self.expected.calendar, self.source.calendar
        if wanted and given.name and not given.same(Calendar(wanted)):
            raise DataError(
                f"{self.source.name} has the calendar {given.name}, the model {wanted}; their dates"
                " do not correspond"
            )

    def stride(self) -> int:
        """Snapshots from one state to the next; DataError if the steps do not fit."""
        if self.expected.step is None:
            return 1
        return check_step(self.source.step(), self.expected.step, self.source.name)

    def read(self, segment: int, time: int) -> Array:
        """One snapshot in the model's order, orientation and units, [C, H, W]."""
        field = self.alignment.to_model(self.source.read(segment, time, self._places))
        if self._factors is not None:
            field = field * self._factors + self._offsets
        if not self._computed:
            return np.ascontiguousarray(field)
        out = np.empty((len(self.expected.channels), *self.grid.shape), np.float32)
        out[self._read] = field
        for index in self._computed:
            out[index] = self._compute(self.expected.channels[index], segment, time)
        return out

    def _compute(self, channel: str, segment: int, time: int) -> Array:
        times = self.source.times(segment)
        if times is None or self.source.calendar.name is None or not self.grid.spherical:
            raise DataError(
                f"{self.source.name}: {channel} follows from the date, and the file has no dates"
            )
        found = forcing(channel, float(times[time]), self.expected.step or 0.0, self.grid)
        assert found is not None
        return found

    def find(self, number: float) -> list[tuple[int, int]]:
        """The (segment, time) with a valid time: one for each member; empty if there is none."""
        found: dict[int, tuple[int, int]] = {}
        for segment in range(len(self.source.segments)):
            times = self.source.times(segment)
            if times is None or not len(times) or not times[0] - 1 <= number <= times[-1] + 1:
                continue
            place = int(np.abs(times - number).argmin())
            if abs(times[place] - number) <= 1e-3:
                found.setdefault(self.source.member(segment), (segment, place))
        return [found[member] for member in sorted(found)]

    def nearest(self, number: float) -> str:
        """For errors: the times that the file has."""
        calendar = self.source.calendar
        known = [self.source.times(s) for s in range(len(self.source.segments))]
        times = [t for t in known if t is not None and len(t)]
        if not times:
            return "it has no times"
        everything = np.concatenate(times)
        near = everything[np.abs(everything - number).argmin()]
        first, last = everything.min(), everything.max()
        return (
            f"it has {len(everything)} times from {calendar.text(first)} to {calendar.text(last)},"
            f" the nearest is {calendar.text(near)}"
        )
