"""Writes forecasts to netCDF or zarr by the CF conventions, one step at a time."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from cupola.errors import DataError
from cupola.structures.grids import Grid

Array = NDArray[np.float32]

# Channel (without its level) -> CF standard name, units.
STANDARD_NAMES = {
    "u": ("eastward_wind", "m s-1"),
    "v": ("northward_wind", "m s-1"),
    "t": ("air_temperature", "K"),
    "z": ("geopotential", "m2 s-2"),
    "r": ("relative_humidity", "%"),
    "sp": ("surface_air_pressure", "Pa"),
    "msl": ("air_pressure_at_mean_sea_level", "Pa"),
    "tcwv": ("atmosphere_mass_content_of_water_vapor", "kg m-2"),
    "vorticity": ("atmosphere_relative_vorticity", "s-1"),
}


@dataclass(frozen=True)
class ForecastLayout:
    """The content of a forecast file.

    channels: variable names. grid: rows and columns. step: time between two states, in `step_unit`.
    start: the time of the start state (numpy.datetime64), None for a model without a calendar.
    members: size of the ensemble, None for a single forecast.
    """

    channels: Sequence[str]
    grid: Grid
    step: float = 6.0
    step_unit: str = "hours"
    start: Any = None
    members: int | None = None
    units: Sequence[str] = ()
    attributes: dict[str, str] = field(default_factory=dict)

    @property
    def space(self) -> tuple[str, str]:
        """Names of the row and column dimension."""
        return ("lat", "lon") if self.grid.spherical else ("y", "x")

    @property
    def dimensions(self) -> tuple[str, ...]:
        """Dimensions of each variable."""
        return ("time", *(("member",) if self.members else ()), *self.space)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one step of one variable."""
        return (*((self.members,) if self.members else ()), *self.grid.shape)

    def time_attributes(self) -> dict[str, str]:
        """CF attributes of the time axis; a plain number if there is no calendar."""
        if self.start is None:
            return {"long_name": "lead time", "units": "1", "axis": "T"}
        since = np.datetime_as_string(np.datetime64(self.start, "s")).replace("T", " ")
        units = f"{self.step_unit} since {since}"
        return {"standard_name": "time", "units": units, "calendar": "standard", "axis": "T"}

    def space_attributes(self) -> tuple[dict[str, str], dict[str, str]]:
        """CF attributes of rows and columns."""
        if not self.grid.spherical:
            return {"long_name": "y", "axis": "Y"}, {"long_name": "x", "axis": "X"}
        return (
            {"standard_name": "latitude", "units": "degrees_north", "axis": "Y"},
            {"standard_name": "longitude", "units": "degrees_east", "axis": "X"},
        )

    def channel_attributes(self, index: int) -> dict[str, str]:
        """CF attributes of a variable; units given by the user take precedence."""
        name = self.channels[index]
        stem = name.removesuffix("m").rstrip("0123456789") or name
        standard, units = STANDARD_NAMES.get(name, STANDARD_NAMES.get(stem, ("", "")))
        if index < len(self.units) and self.units[index]:
            units = self.units[index]
        found = {"long_name": name, "units": units or "1"}
        return found | ({"standard_name": standard} if standard and self.grid.spherical else {})

    def file_attributes(self) -> dict[str, str]:
        """Global attributes."""
        return {"Conventions": "CF-1.11", "source": "Cupola", **self.attributes}


class ForecastWriter(ABC):
    """Appends steps to a file as they come, so that memory does not grow with the forecast."""

    def __init__(self, path: str | Path, layout: ForecastLayout) -> None:
        self.path, self.layout, self.steps = Path(path), layout, 0

    def append(self, state: Array) -> None:
        """Adds a state, [C, H, W] or [M, C, H, W] for an ensemble; the first is the start."""
        by_channel = np.moveaxis(state, -3, 0)  # [C, (M,) H, W]
        expected = (len(self.layout.channels), *self.layout.shape)
        if by_channel.shape != expected:
            raise DataError(f"expected a step of shape {expected}, got {by_channel.shape}")
        self._write(self.steps, self.steps * self.layout.step, by_channel)
        self.steps += 1

    @abstractmethod
    def _write(self, index: int, time: float, by_channel: Array) -> None: ...

    def close(self) -> None:  # noqa: B027 - a zarr store has nothing to finish
        """Finishes the file."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class NetCDFWriter(ForecastWriter):
    """A netCDF-4 file with an unlimited time axis."""

    def __init__(self, path: str | Path, layout: ForecastLayout) -> None:
        import netCDF4

        super().__init__(path, layout)
        self._file = file = netCDF4.Dataset(self.path, "w", format="NETCDF4")
        file.setncatts(layout.file_attributes())
        self._axis("time", None, layout.time_attributes())
        if layout.members:
            self._axis("member", range(layout.members), {"standard_name": "realization"})
        sides = (layout.grid.rows, layout.grid.columns)
        for name, values, attributes in zip(
            layout.space, sides, layout.space_attributes(), strict=True
        ):
            self._axis(name, values, attributes)
        for index, channel in enumerate(layout.channels):
            variable = file.createVariable(channel, "f4", layout.dimensions, zlib=True, complevel=1)
            variable.setncatts(layout.channel_attributes(index))

    def _axis(self, name: str, values: Sequence[float] | None, attributes: dict[str, str]) -> None:
        self._file.createDimension(name, None if values is None else len(values))
        variable = self._file.createVariable(name, "f8", (name,))
        variable.setncatts(attributes)
        if values is not None:
            variable[:] = values

    def _write(self, index: int, time: float, by_channel: Array) -> None:
        self._file["time"][index] = time
        for channel, values in zip(self.layout.channels, by_channel, strict=True):
            self._file[channel][index] = values
        self._file.sync()

    def close(self) -> None:
        """Finishes the file."""
        self._file.close()


class ZarrWriter(ForecastWriter):
    """A zarr store, one chunk a step."""

    def _write(self, index: int, time: float, by_channel: Array) -> None:
        import xarray

        layout = self.layout
        data = {
            name: (layout.dimensions, values[None], layout.channel_attributes(i))
            for i, (name, values) in enumerate(zip(layout.channels, by_channel, strict=True))
        }
        rows, columns = layout.space_attributes()
        axes: dict[str, Any] = {
            "time": ("time", np.array([time]), layout.time_attributes()),
            layout.space[0]: (layout.space[0], np.array(layout.grid.rows), rows),
            layout.space[1]: (layout.space[1], np.array(layout.grid.columns), columns),
        }
        step = xarray.Dataset(data, axes, layout.file_attributes())
        append = {"append_dim": "time", "mode": "a"} if index else {"mode": "w"}
        step.to_zarr(self.path, zarr_format=2, consolidated=True, **append)


def forecast_writer(path: str | Path, layout: ForecastLayout) -> ForecastWriter:
    """The writer for a path that ends in .nc or .zarr; DataError for others."""
    writers = {".nc": NetCDFWriter, ".nc4": NetCDFWriter, ".zarr": ZarrWriter}
    suffix = Path(path).suffix
    if suffix not in writers:
        raise DataError(f"{path}: forecasts are written to .nc or .zarr")
    return writers[suffix](path, layout)
