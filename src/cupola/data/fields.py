"""Gridded fields on disk, read one time at a time: FourCastNet's HDF5, netCDF, zarr.

Letters: T times, C channels, H rows, W columns.
"""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cupola.errors import DataError, did_you_mean
from cupola.files.scientific import check_scientific
from cupola.structures.grids import Grid

Array = NDArray[np.float32]

# The order of the published files: 10 m winds, 2 m temperature, pressures, then by level in hPa.
FOURCASTNET_CHANNELS = (
    *("u10", "v10", "t2m", "sp", "msl", "t850", "u1000", "v1000", "z1000", "u850", "v850"),
    *("z850", "u500", "v500", "z500", "t500", "z50", "r500", "r850", "tcwv"),
)

MOST_CHANNELS = 10_000
ROW_NAMES = ("latitude", "lat", "y")
COLUMN_NAMES = ("longitude", "lon", "x")
TIME_NAMES = ("time", "valid_time", "t")


class FieldSource(ABC):
    """Snapshots [C, H, W] in segments (files, flows); a window stays within one segment.

    channels: their names. grid: their coordinates. units: by channel, "" where unknown.
    segments: number of times in each segment.
    """

    channels: tuple[str, ...]
    units: tuple[str, ...]
    grid: Grid
    segments: tuple[int, ...]

    @abstractmethod
    def read(self, segment: int, time: int) -> Array:
        """One snapshot, [C, H, W]; nothing else is loaded."""

    def select(self, names: Sequence[str]) -> list[int]:
        """The indices of channels by name; DataError for an unknown one."""
        for name in names:
            if name not in self.channels:
                raise DataError(f"no channel {name!r}{did_you_mean(name, self.channels)}")
        return [self.channels.index(name) for name in names]


class FourCastNetFiles(FieldSource):
    """Yearly HDF5 files as published: one dataset `fields`, [T, C, 721, 1440] float32."""

    def __init__(self, paths: Sequence[Path]) -> None:
        import h5py

        for path in paths:
            check_scientific(path)
        self._files = [h5py.File(path, "r") for path in paths]
        shapes = {_shape(file, path) for file, path in zip(self._files, paths, strict=True)}
        if len(shapes) != 1:
            raise DataError(f"the files differ in shape: {sorted(shapes)}")
        C, H, W = shapes.pop()
        self.segments = tuple(file["fields"].shape[0] for file in self._files)
        extra = tuple(f"channel{i}" for i in range(len(FOURCASTNET_CHANNELS), C))
        self.channels = FOURCASTNET_CHANNELS[:C] + extra
        self.units = ("",) * C
        self.grid = Grid.globe(H, W)

    def read(self, segment: int, time: int) -> Array:
        """One snapshot, [C, H, W]."""
        return np.asarray(self._files[segment]["fields"][time], np.float32)


def _shape(file: Any, path: Path) -> tuple[int, ...]:
    """Channels, rows and columns of a file's dataset `fields`."""
    fields = file.get("fields")
    shape: tuple[int, ...] = getattr(fields, "shape", ())
    if len(shape) != 4:
        raise DataError(f"{path}: has no dataset `fields` of 4 dimensions; it has {list(file)[:8]}")
    if not 0 < shape[1] <= MOST_CHANNELS:
        raise DataError(f"{path}: `fields` has {shape[1]} channels; 1 to {MOST_CHANNELS} are read")
    return tuple(shape[1:])


class XarrayFields(FieldSource):
    """netCDF or zarr: variables [(trajectory,) time, (level,) rows, columns] become channels.

    A variable with levels gives one channel for each, named like `z500`.
    """

    def __init__(self, dataset: Any, variables: Sequence[str] | None = None) -> None:
        self._data = dataset
        self._rows = _dimension(dataset, ROW_NAMES, "rows")
        self._columns = _dimension(dataset, COLUMN_NAMES, "columns")
        self._time = next((name for name in TIME_NAMES if name in dataset.dims), None)
        self._flow = next((name for name in ("trajectory", "flow") if name in dataset.dims), None)
        named = variables or [
            str(name)
            for name, variable in dataset.data_vars.items()
            if {self._rows, self._columns} <= set(variable.dims)
        ]
        self._parts = [part for name in named for part in self._split(name)]
        self.channels = tuple(name for name, _, _ in self._parts)
        self.units = tuple(str(dataset[name].attrs.get("units", "")) for _, name, _ in self._parts)
        times = dataset.sizes[self._time] if self._time else 1
        self.segments = (times,) * (dataset.sizes[self._flow] if self._flow else 1)
        self.grid = Grid(
            _coordinates(dataset, self._rows),
            _coordinates(dataset, self._columns),
            spherical=self._rows in ROW_NAMES[:2],
        )

    def _split(self, name: str) -> list[tuple[str, str, dict[str, int]]]:
        if name not in self._data:
            raise DataError(f"no variable {name!r}{did_you_mean(name, self._data.data_vars)}")
        known = {self._rows, self._columns, self._time, self._flow}
        levels = [str(dim) for dim in self._data[name].dims if dim not in known]
        if not levels:
            return [(name, name, {})]
        if len(levels) > 1:
            raise DataError(f"variable {name!r} has more than one level dimension: {levels}")
        values = _coordinates(self._data, levels[0])
        return [(f"{name}{value:g}", name, {levels[0]: i}) for i, value in enumerate(values)]

    def read(self, segment: int, time: int) -> Array:
        """One snapshot, [C, H, W]."""
        at = {self._time: time} if self._time else {}
        if self._flow:
            at[self._flow] = segment
        fields = [
            self._data[name].isel({**at, **level}).transpose(self._rows, self._columns).values
            for _, name, level in self._parts
        ]
        return np.stack(fields).astype(np.float32)

    def start(self, time: int) -> Any:
        """The time coordinate of a snapshot, numpy.datetime64 or a number; None without one."""
        if self._time is None or self._time not in self._data.coords:
            return None
        return self._data[self._time].values[time]


def _dimension(dataset: Any, names: Sequence[str], what: str) -> str:
    for name in names:
        if name in dataset.dims:
            return name
    raise DataError(f"no dimension for {what}: looked for {names}, found {list(dataset.dims)}")


def _coordinates(dataset: Any, name: str) -> tuple[float, ...]:
    if name in dataset.coords:
        return tuple(float(value) for value in dataset[name].values)
    return tuple(float(value) for value in range(dataset.sizes[name]))


def open_fields(path: str | Path, variables: Sequence[str] | None = None) -> FieldSource:
    """Opens a file or folder of files lazily, by its format; DataError for an unknown format."""
    path = Path(path)
    if not path.exists():
        raise DataError(f"{path}: no such file or folder")
    if path.suffix in (".h5", ".hdf5"):
        return FourCastNetFiles([path])
    if path.is_dir() and (years := sorted(path.glob("*.h5"))):
        return FourCastNetFiles(years)
    check_scientific(path)
    try:
        import xarray
    except ImportError:
        raise DataError("reading netCDF and zarr needs `pip install cupola[weather]`") from None
    try:
        with warnings.catch_warnings():  # climatologies count from a year 1 that xarray rewrites
            warnings.simplefilter("ignore", xarray.SerializationWarning)
            dataset = xarray.open_zarr(path) if path.is_dir() else xarray.open_dataset(path)
    except (ValueError, OSError, KeyError) as error:
        reason = str(error).partition("\n")[0]
        raise DataError(f"{path}: neither netCDF nor zarr ({reason})") from None
    return XarrayFields(dataset, variables)
