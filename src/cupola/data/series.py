"""Several sources as one: a series in time, or the channels of each."""

from collections.abc import Sequence

import numpy as np

from cupola.data.field_source import Array, FieldSource
from cupola.data.times import Numbers, stretches
from cupola.errors import DataError

Place = tuple[int, int, int]  # source, segment, time


def join_sources(sources: Sequence[FieldSource], where: str) -> FieldSource:
    """One source of several files; DataError says where they differ."""
    if len(sources) == 1:
        return sources[0]
    if not sources:
        raise DataError(f"{where}: holds no fields")
    first = next((source for source in sources if source.calendar.name), sources[0])
    for other in sources:
        static = other.segments == (1,) and other.calendar.name is None
        if other.grid != first.grid:
            raise DataError(
                f"{first.name} and {other.name} have different grids: {first.grid}; {other.grid}"
            )
        if not static and not other.calendar.same(first.calendar):
            raise DataError(
                f"{first.name} and {other.name} have different calendars:"
                f" {first.calendar.name}; {other.calendar.name}"
            )
    if all(set(other.channels) == set(first.channels) for other in sources):
        return Series(sources, where)
    return Union(sources, where)


class Series(FieldSource):
    """Files of the same channels, in the order of their times; segments may reach across files."""

    def __init__(self, sources: Sequence[FieldSource], where: str) -> None:
        first = sources[0]
        self.name, self.channels, self.units = where, first.channels, first.units
        self.grid, self.calendar, self.members = first.grid, first.calendar, first.members
        for other in sources:
            by_name = dict(zip(other.channels, other.units, strict=True))
            for channel, units in zip(first.channels, first.units, strict=True):
                if by_name[channel] != units:
                    raise DataError(
                        f"{first.name} has {channel} in {units!r}, {other.name} in"
                        f" {by_name[channel]!r}"
                    )
        self._sources = sources
        self._channels = [source.select(self.channels) for source in sources]
        self._places, self._times = self._join()
        self.segments = tuple(len(places) for places in self._places)

    def _join(self) -> tuple[list[list[Place]], list[Numbers | None]]:
        """The places of each segment, and its times."""
        alone = any(len(s.segments) > 1 and s.members > 1 for s in self._sources)
        runs = [
            ([(i, segment, t) for t in range(length)], source.times(segment))
            for i, source in enumerate(self._sources)
            for segment, length in enumerate(source.segments)
        ]
        if alone or any(times is None for _, times in runs):
            return [places for places, _ in runs], [times for _, times in runs]
        dated = sorted(((p, t) for p, t in runs if t is not None), key=lambda run: run[1][0])
        places = [place for run, _ in dated for place in run]
        times = np.concatenate([numbers for _, numbers in dated])
        parts = stretches(times, self.calendar)
        return [places[a:b] for a, b in parts], [times[a:b] for a, b in parts]

    def times(self, segment: int) -> Numbers | None:
        """The valid times of a segment."""
        return self._times[segment]

    def read(self, segment: int, time: int, channels: Sequence[int] | None = None) -> Array:
        """One snapshot, [C, H, W]."""
        source, inner, place = self._places[segment][time]
        order = self._channels[source]
        wanted = order if channels is None else [order[index] for index in channels]
        return self._sources[source].read(inner, place, wanted)


class Union(FieldSource):
    """Files with different channels at the same times, such as one variable a file."""

    def __init__(self, sources: Sequence[FieldSource], where: str) -> None:
        groups: dict[tuple[str, ...], list[FieldSource]] = {}
        for source in sources:
            groups.setdefault(source.channels, []).append(source)
        self._sources = [join_sources(group, where) for group in groups.values()]
        dynamic = max(self._sources, key=lambda source: sum(source.segments))
        self.name, self.grid, self.calendar = where, dynamic.grid, dynamic.calendar
        self.segments, self.members, self._main = dynamic.segments, dynamic.members, dynamic
        self._index: list[tuple[int, int]] = []
        channels: list[str] = []
        units: list[str] = []
        for number, source in enumerate(self._sources):
            self._check(source)
            for place, channel in enumerate(source.channels):
                if channel in channels:
                    raise DataError(
                        f"{where}: several files have the channel {channel}, with others"
                    )
                channels.append(channel)
                units.append(source.units[place])
                self._index.append((number, place))
        self.channels, self.units = tuple(channels), tuple(units)

    def _check(self, source: FieldSource) -> None:
        """Each file has the same times, or is a single snapshot such as orography."""
        if source.segments == (1,):
            return
        same = source.segments == self.segments and all(
            _equal(source.times(i), self.times(i)) for i in range(len(self.segments))
        )
        if not same:
            raise DataError(
                f"{source.name} ({', '.join(source.channels[:4])}) and {self._main.name}"
                f" ({', '.join(self._main.channels[:4])}) have different times"
            )

    def times(self, segment: int) -> Numbers | None:
        """The valid times of a segment."""
        return self._main.times(segment)

    def read(self, segment: int, time: int, channels: Sequence[int] | None = None) -> Array:
        """One snapshot, [C, H, W]."""
        wanted = self._index if channels is None else [self._index[i] for i in channels]
        out = np.empty((len(wanted), *self.grid.shape), np.float32)
        for number in {source for source, _ in wanted}:
            source = self._sources[number]
            rows = [i for i, (which, _) in enumerate(wanted) if which == number]
            at = (0, 0) if source.segments == (1,) else (segment, time)
            out[rows] = source.read(*at, [wanted[i][1] for i in rows])
        return out


def _equal(one: Numbers | None, other: Numbers | None) -> bool:
    if one is None or other is None:
        return one is other
    return len(one) == len(other) and bool((one == other).all())
