"""FieldSource: gridded fields that are read one time at a time.

Letters: T times, C channels, H rows, W columns.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cupola.data.times import Calendar, Numbers, usual_step
from cupola.errors import DataError, did_you_mean
from cupola.structures.grids import Grid
from cupola.structures.variables import channel_name

Array = NDArray[np.float32]


class FieldSource(ABC):
    """Snapshots [C, H, W] in segments, stretches of equal time steps.

    channels: our names where they are known, else the file's. units: by channel, "" where unknown.
    grid: the file's coordinates. calendar: of the times. segments: number of times in each segment.
    members: size of the ensemble that the file holds; each member has segments of its own.
    """

    channels: tuple[str, ...]
    units: tuple[str, ...]
    grid: Grid
    calendar: Calendar
    segments: tuple[int, ...]
    members: int = 1
    name: str = "the file"

    @abstractmethod
    def read(self, segment: int, time: int, channels: Sequence[int] | None = None) -> Array:
        """One snapshot, [C, H, W], of some channels or all; nothing else is loaded."""

    @abstractmethod
    def times(self, segment: int) -> Numbers | None:
        """The valid times of a segment as numbers of `calendar`; None if the file has none."""

    def member(self, segment: int) -> int:
        """Which member of the ensemble a segment is."""
        return 0

    def select(self, names: Sequence[str]) -> list[int]:
        """The indices of channels, in any known spelling; DataError lists what the file has."""
        for name in names:
            if name not in self.channels and channel_name(name) not in self.channels:
                hint = did_you_mean(name, self.channels)
                raise DataError(f"{self.name}: no channel {name!r}{hint}; it has {self._listed()}")
        return [
            self.channels.index(name if name in self.channels else channel_name(name))
            for name in names
        ]

    def _listed(self) -> str:
        shown = ", ".join(self.channels[:40])
        more = len(self.channels) - 40
        return (shown or "none") + (f" and {more} more" if more > 0 else "")

    def step(self) -> float | None:
        """The usual difference between the times of a segment; None if there is none."""
        for segment, length in enumerate(self.segments):
            times = self.times(segment) if length > 1 else None
            if times is not None:
                return usual_step(times)
        return None
