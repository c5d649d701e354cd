"""What the dimensions of a dataset are: rows, columns, time, lead time, levels, members, samples.

Found by CF attributes (standard_name, units, axis) and by the names that are usual in files.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cupola.data.times import SECONDS
from cupola.errors import DataError

ROWS = ("latitude", "lat", "y", "nlat", "rlat", "fnocy", "coadsy")
COLUMNS = ("longitude", "lon", "x", "nlon", "rlon", "fnocx", "coadsx")
TIMES = ("time", "valid_time", "t", "init_time", "initial_time", "forecast_reference_time")
LEADS = ("prediction_timedelta", "lead_time", "forecast_period", "step", "lead", "leadtime")
MEMBERS = ("number", "realization", "member", "ensemble", "ens", "ensemble_member")
SAMPLES = ("trajectory", "flow", "sample", "batch")
LEVELS = ("pressure_level", "level", "plev", "lev", "isobaricinhpa", "isobaric", "pressure")
VERSIONS = ("expver",)  # ERA5 and ERA5T, where one has values the other has NaN


@dataclass(frozen=True)
class Axes:
    """The names of a dataset's dimensions by meaning; None or empty where there is none.

    single: dimensions of length 1 that mean nothing else.
    """

    rows: str
    columns: str
    time: str | None = None
    lead: str | None = None
    member: str | None = None
    version: str | None = None
    samples: tuple[str, ...] = ()
    single: tuple[str, ...] = ()
    levels: tuple[str, ...] = field(default=())

    @property
    def spherical(self) -> bool:
        """Whether rows and columns are latitudes and longitudes."""
        return self.rows.lower() not in ("y", "x")


def find_axes(dataset: Any, where: str) -> Axes:
    """Sorts the dimensions of a dataset; DataError if rows or columns are not found."""
    found: dict[str, str] = {}
    samples, single, levels = [], [], []
    for dim in map(str, dataset.dims):
        kind = _kind(dataset, dim)
        if kind == "sample":
            samples.append(dim)
        elif kind in ("rows", "columns", "time", "lead", "member", "version"):
            if kind in found:
                kinds = (found[kind], dim)
                raise DataError(f"{where}: both {kinds[0]!r} and {kinds[1]!r} look like {kind}")
            found[kind] = dim
        elif kind == "level":
            levels.append(dim)
        elif dataset.sizes[dim] == 1 and not _has_names(dataset, dim):
            single.append(dim)
    for kind in ("rows", "columns"):
        if kind not in found:
            raise DataError(_no_axis(dataset, kind, where))
    return Axes(**found, samples=tuple(samples), single=tuple(single), levels=tuple(levels))


def _has_names(dataset: Any, dim: str) -> bool:
    """Whether a dimension is one of variables, with their names as its coordinate."""
    return dim in dataset.coords and dataset.coords[dim].dtype.kind in "UOST"


def _no_axis(dataset: Any, kind: str, where: str) -> str:
    """Why a dataset has no rows or columns."""
    flat = [n for n, c in dataset.variables.items() if c.ndim == 2 and _is_side(str(n), c.attrs)]
    if flat:
        return f"{where}: {flat[0]!r} has two dimensions; only regular grids are read, regrid it"
    expected = "latitude" if kind == "rows" else "longitude"
    return (
        f"{where}: no dimension for {kind} ({expected}, or a coordinate with that standard_name);"
        f" its variables are {_shapes(dataset)}"
    )


def _shapes(dataset: Any) -> str:
    shapes = [f"{n}{tuple(v.sizes.items())}" for n, v in list(dataset.data_vars.items())[:8]]
    return ", ".join(shapes).replace("'", "") or "none"


def _is_side(name: str, attributes: Any) -> bool:
    return attributes.get("standard_name") in ("latitude", "longitude") or name.lower() in (
        *("latitude", "longitude", "lat", "lon", "xlat", "xlong", "nav_lat", "nav_lon"),
    )


def _kind(dataset: Any, dim: str) -> str:
    """rows, columns, time, lead, member, version, sample, level, or "" for none of them."""
    coordinate = dataset.coords.get(dim)
    attributes = {} if coordinate is None else coordinate.attrs
    standard = attributes.get("standard_name", "")
    name, units = dim.lower(), str(attributes.get("units", "")).lower()
    dtype = "" if coordinate is None else coordinate.dtype.kind
    tests: Sequence[tuple[str, bool]] = (
        ("rows", standard == "latitude" or units in ("degrees_north", "degree_north")),
        ("columns", standard == "longitude" or units in ("degrees_east", "degree_east")),
        (
            "lead",
            standard == "forecast_period" or name in LEADS or dtype == "m",
        ),
        (
            "time",
            standard in ("time", "forecast_reference_time") or dtype == "M",
        ),
        ("member", standard == "realization" or name in MEMBERS),
        ("version", name in VERSIONS),
        ("sample", name in SAMPLES),
        ("level", name in LEVELS or standard == "air_pressure"),
        ("rows", name in ROWS or attributes.get("axis") == "Y"),
        ("columns", name in COLUMNS or attributes.get("axis") == "X"),
        ("time", name in TIMES or attributes.get("axis") == "T"),
    )
    return next((kind for kind, holds in tests if holds), "")


def coordinates(dataset: Any, dim: str) -> np.ndarray:
    """The values along a dimension as numbers; 0, 1, 2 ... without a coordinate."""
    if dim in dataset.coords and dataset.coords[dim].dtype.kind in "iuf":
        return np.atleast_1d(np.asarray(dataset.coords[dim].values, np.float64))
    return np.arange(dataset.sizes[dim], dtype=np.float64)


def lead_seconds(coordinate: Any) -> np.ndarray:
    """Lead times in seconds, of durations or numbers with units; plain numbers without."""
    values = np.atleast_1d(np.asarray(coordinate.values))
    if values.dtype.kind == "m":
        return values.astype("timedelta64[ms]").astype(np.int64) / 1e3
    units = str(coordinate.attrs.get("units", "")).strip().lower()
    return values.astype(np.float64) * SECONDS.get(units, 1.0)


def level_values(dataset: Any, dim: str) -> list[float]:
    """The levels along a dimension: pressures in hPa, others as they are."""
    attributes = dataset.coords[dim].attrs if dim in dataset.coords else {}
    factor = 0.01 if str(attributes.get("units", "")).strip().lower() in ("pa", "pascal") else 1.0
    return [round(float(value) * factor, 6) for value in coordinates(dataset, dim)]
