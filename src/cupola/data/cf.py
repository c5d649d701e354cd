"""Writes forecasts to netCDF or zarr, one step at a time.

A zarr store is written by a thread of its own, while the model computes the next state.
"""

from abc import ABC, abstractmethod
from pathlib import Path
from queue import Queue
from threading import Thread
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from cupola.data.conventions import CONVENTIONS, Axis, ForecastLayout, Schema
from cupola.errors import DataError

__all__ = ["CONVENTIONS", "ForecastLayout", "ForecastWriter", "forecast_writer"]

Array = NDArray[np.float32]
WAITING = 2  # states that may wait to be written, so that memory does not grow


class ForecastWriter(ABC):
    """Appends steps to a file as they come, so that memory does not grow with the forecast."""

    def __init__(self, path: str | Path, layout: ForecastLayout) -> None:
        self.path, self.layout, self.steps = Path(path), layout, 0
        self.schema = Schema(layout)
        self.start = 0

    def begin(self, start: int) -> None:
        """The next steps belong to the start with this number."""
        self.start, self.steps = start, 0

    def append(self, state: Array) -> None:
        """Adds a state, [C, H, W] or [M, C, H, W] for an ensemble; the first is the start."""
        layout = self.layout
        by_channel = np.moveaxis(state, -3, 0)  # [C, (M,) H, W]
        members = (layout.members,) if layout.members else ()
        expected = (len(layout.channels), *members, *layout.grid.shape)
        if by_channel.shape != expected:
            raise DataError(f"expected a step of shape {expected}, got {by_channel.shape}")
        self._write(self.start, self.steps, by_channel)
        self.steps += 1

    def file_attributes(self) -> dict[str, str]:
        """Global attributes."""
        conventions = {"Conventions": "CF-1.11"} if self.layout.convention == "cf" else {}
        return {**conventions, "source": "Cupola", **self.layout.attributes}

    @abstractmethod
    def _write(self, start: int, step: int, by_channel: Array) -> None: ...

    @abstractmethod
    def close(self) -> None:
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
    """A netCDF-4 file; the time axis is unlimited if the number of steps is not known.

    Its library may not be used by two threads, so that it is written between the steps.
    """

    def __init__(self, path: str | Path, layout: ForecastLayout) -> None:
        import netCDF4

        super().__init__(path, layout)
        schema = self.schema
        self._file = file = netCDF4.Dataset(self.path, "w", format="NETCDF4")
        file.setncatts(self.file_attributes())
        axes = schema.axes()
        for axis in axes:
            if axis.dims is None:
                file.createDimension(axis.name, None if axis.values is None else len(axis.values))
        for axis in axes:
            kind = "i8" if getattr(axis.values, "dtype", None) == np.int64 else "f8"
            variable = file.createVariable(axis.name, kind, axis.along)
            variable.setncatts(axis.attributes)
            if axis.values is not None:
                variable[...] = axis.values
        for place in {place.variable: place for place in schema.places}.values():
            fill = np.float32(np.nan)
            variable = file.createVariable(
                place.variable, "f4", schema.dims(place), zlib=True, complevel=1, fill_value=fill
            )
            variable.setncatts(place.attributes)

    def _write(self, start: int, step: int, by_channel: Array) -> None:
        if self.layout.count is None:
            self._file[self.schema.lead][step] = step * self.layout.step
        for place, values in zip(self.schema.places, by_channel, strict=True):
            self._file[place.variable][self.schema.index(place, start, step)] = values
        self._file.sync()

    def close(self) -> None:
        """Finishes the file."""
        if self._file.isopen():
            self._file.close()


class ZarrWriter(ForecastWriter):
    """A zarr store, one chunk for each step, member and channel, written by a thread.

    An error of the thread is raised by the next `append`, or by `close`.
    """

    def __init__(self, path: str | Path, layout: ForecastLayout) -> None:
        import zarr

        super().__init__(path, layout)
        self._group = zarr.open_group(self.path, mode="w", zarr_format=2)
        self._group.attrs.update(self.file_attributes())
        self._axes = self.schema.axes()
        sizes = {
            axis.name: 0 if axis.values is None else len(axis.values)
            for axis in self._axes
            if axis.dims is None
        }
        for axis in self._axes:
            self._create_axis(axis, sizes)
        self._arrays = {
            place.variable: self._create(
                place.variable,
                [sizes[dim] for dim in self.schema.dims(place)],
                [sizes[d] if d in self.schema.space else 1 for d in self.schema.dims(place)],
                {"_ARRAY_DIMENSIONS": list(self.schema.dims(place)), **place.attributes},
            )
            for place in {place.variable: place for place in self.schema.places}.values()
        }
        self._queue: Queue[tuple[int, int, Array] | None] = Queue(WAITING)
        self._error: BaseException | None = None
        self._thread: Thread | None = Thread(target=self._run, name="forecast writer", daemon=True)
        self._thread.start()

    def _create_axis(self, axis: Axis, sizes: dict[str, int]) -> None:
        attributes = {"_ARRAY_DIMENSIONS": list(axis.along), **axis.attributes}
        values = np.zeros(0) if axis.values is None else np.asarray(axis.values)
        array = self._group.create_array(
            axis.name,
            shape=values.shape,
            chunks=tuple(max(1, size) for size in (values.shape or ())) or values.shape,
            dtype=values.dtype,
            attributes=attributes,
            fill_value=None,
        )
        array[...] = values

    def _create(self, name: str, shape: Any, chunks: Any, attributes: dict[str, Any]) -> Any:
        from numcodecs import Blosc

        return self._group.create_array(
            name,
            shape=tuple(shape),
            chunks=tuple(chunks),
            dtype="f4",
            fill_value=np.nan,
            compressors=Blosc(cname="lz4", clevel=3, shuffle=Blosc.SHUFFLE),
            attributes=attributes,
        )

    def _write(self, start: int, step: int, by_channel: Array) -> None:
        self._raise()
        self._queue.put((start, step, by_channel))

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            if self._error is None:
                try:
                    self._store(*item)
                except BaseException as error:
                    self._error = error

    def _store(self, start: int, step: int, by_channel: Array) -> None:
        schema = self.schema
        if self.layout.count is None:
            self._grow(step)
        for place, values in zip(schema.places, by_channel, strict=True):
            self._arrays[place.variable][schema.index(place, start, step)] = values

    def _grow(self, step: int) -> None:
        lead = self._group[self.schema.lead]
        lead.resize((step + 1,))
        lead[step] = step * self.layout.step
        for array in self._arrays.values():
            array.resize((step + 1, *array.shape[1:]))

    def _raise(self) -> None:
        if self._error is not None:
            error, self._error = self._error, None
            raise DataError(f"{self.path}: cannot be written ({error})") from error

    def close(self) -> None:
        """Waits for the thread and finishes the store."""
        import zarr

        if self._thread is None:
            return
        self._queue.put(None)
        self._thread.join()
        self._thread = None
        self._raise()
        zarr.consolidate_metadata(self._group.store)


def forecast_writer(path: str | Path, layout: ForecastLayout) -> ForecastWriter:
    """The writer for a path that ends in .nc or .zarr; DataError for others."""
    writers = {".nc": NetCDFWriter, ".nc4": NetCDFWriter, ".zarr": ZarrWriter}
    suffix = Path(path).suffix
    if suffix not in writers:
        raise DataError(f"{path}: forecasts are written to .nc or .zarr")
    return writers[suffix](path, layout)
