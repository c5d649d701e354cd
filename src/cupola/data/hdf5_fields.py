"""FourCastNet's HDF5 files as published: one dataset `fields`, [T, C, 721, 1440] float32."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cupola.data.field_source import Array, FieldSource
from cupola.data.times import Calendar, Numbers
from cupola.errors import DataError
from cupola.files.scientific import check_scientific
from cupola.structures.grids import Grid
from cupola.structures.variables import FOURCASTNET_CHANNELS, channel_name, channel_units

MOST_CHANNELS = 10_000
LONGEST_SIDE = 1_000_000  # times, rows or columns; a century has 146,100 snapshots
STEP = 6 * 3600.0  # seconds between the published snapshots


def has_fields(path: Path) -> bool:
    """Whether an HDF5 file has the dataset `fields`; DataError if it is not safe to open."""
    check_scientific(path)
    import h5py

    with h5py.File(path, "r") as file:
        return "fields" in file


class FourCastNetFile(FieldSource):
    """One file. A name that is a year (2018.h5) gives the dates: every 6 hours from January 1.

    Coordinates and channel names are the published ones, unless the file has the datasets
    `latitude` and `longitude` (or lat, lon), and `channel`.
    """

    def __init__(self, path: Path) -> None:
        import h5py

        check_scientific(path)
        self._file = h5py.File(path, "r")
        self.name = str(path)
        T, C, H, W = _shape(self._file, path)
        self.segments = (T,)
        extra = tuple(f"channel{i}" for i in range(len(FOURCASTNET_CHANNELS), C))
        self.channels = _names(self._file, C) or FOURCASTNET_CHANNELS[:C] + extra
        self.units = tuple(channel_units(name) for name in self.channels)
        self.grid = _grid(self._file, H, W)
        dated = path.stem.isdigit() and len(path.stem) == 4 and int(path.stem) > 0
        self.calendar = Calendar("standard" if dated else None)
        start = self.calendar.parse(f"{path.stem}-01-01") if dated else 0.0
        self._times: Numbers = start + STEP * np.arange(T, dtype=np.float64)

    def read(self, segment: int, time: int, channels: Sequence[int] | None = None) -> Array:
        """One snapshot, [C, H, W]."""
        fields = self._file["fields"]
        if channels is None:
            return np.asarray(fields[time], np.float32)
        return np.stack([np.asarray(fields[time, index], np.float32) for index in channels])

    def times(self, segment: int) -> Numbers | None:
        """The dates that the file's name gives, else None."""
        return self._times if self.calendar.name else None


def _shape(file: Any, path: Path) -> tuple[int, ...]:
    """Times, channels, rows and columns of a file's dataset `fields`."""
    shape: tuple[int, ...] = getattr(file["fields"], "shape", ())
    if len(shape) != 4:
        raise DataError(
            f"{path}: `fields` has {len(shape)} dimensions, not time, channel, row and column"
        )
    if not 0 < shape[1] <= MOST_CHANNELS:
        raise DataError(f"{path}: `fields` has {shape[1]} channels; 1 to {MOST_CHANNELS} are read")
    if max(shape) > LONGEST_SIDE:
        raise DataError(f"{path}: `fields` has shape {list(shape)}; a side may have {LONGEST_SIDE}")
    return shape


def _names(file: Any, count: int) -> tuple[str, ...]:
    for key in ("channel", "channels"):
        found = file.get(key)
        if found is not None and getattr(found, "shape", None) == (count,):
            values = [v.decode() if isinstance(v, bytes) else str(v) for v in found[:]]
            return tuple(channel_name(value) for value in values)
    return ()


def _grid(file: Any, height: int, width: int) -> Grid:
    for rows, columns in (("latitude", "longitude"), ("lat", "lon")):
        sides = file.get(rows), file.get(columns)
        if all(getattr(side, "size", None) in (height, width) for side in sides):
            lat, lon = (np.asarray(side, np.float64).ravel() for side in sides)
            if (len(lat), len(lon)) == (height, width):
                return Grid(tuple(lat.tolist()), tuple(lon.tolist()))
    return Grid.globe(height, width)
