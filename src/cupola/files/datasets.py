"""Opens netCDF, HDF5, zarr and GRIB files as xarray datasets, after `check_scientific`."""

import importlib
import logging
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from cupola.errors import DataError
from cupola.files.guard import guarded
from cupola.files.opening import check_regular
from cupola.files.scientific import check_scientific

GRIB_SUFFIXES = (".grib", ".grb", ".grib2", ".grb2", ".grib1")
MEMORY, MOST_MEMORY, SECONDS = 192 * 2**20, 2 * 2**30, 2.0  # of opening a file; bytes, seconds
HDF5_SUFFIXES = (".h5", ".hdf5")


def open_datasets(path: Path) -> list[Any]:
    """The datasets of a file or zarr store, read lazily: several for a GRIB file, else one.

    Times are decoded, durations are not. DataError for any other format.
    """
    if is_grib(path):
        return _open_grib(path)
    check_scientific(path)
    xarray = import_xarray(path)
    options: dict[str, Any] = {"decode_timedelta": False}
    if path.is_dir():
        options |= {"engine": "zarr", "chunks": None}
    elif path.suffix in HDF5_SUFFIXES:
        options |= {"engine": "h5netcdf", "phony_dims": "access"}
    try:
        with warnings.catch_warnings():
            # Climatologies count from a year 1 that xarray rewrites; a store may be unconsolidated.
            warnings.simplefilter("ignore")
            if path.is_file():
                _try(lambda: xarray.open_dataset(path, **options), path.stat().st_size)
            return [xarray.open_dataset(path, **options)]
    except Exception as error:  # each engine has its own errors for a damaged file
        reason = (str(error) or type(error).__name__).partition("\n")[0]
        raise DataError(f"{path}: neither netCDF nor zarr ({reason})") from None


def _try(action: Callable[[], object], size: int) -> None:
    """Open a file in a child process first: headers may claim endless attributes and texts.

    The libraries are imported before, so that their time and memory do not count.
    """
    for name in ("netCDF4", "h5netcdf", "scipy.io"):
        with suppress(ImportError):
            importlib.import_module(name)
    reason = guarded(action, memory=MEMORY + min(4 * size, MOST_MEMORY), seconds=SECONDS)
    if reason is not None:
        raise ValueError(reason)


def import_xarray(path: Path) -> Any:
    """The module xarray; DataError that says how to install it."""
    try:
        import xarray
    except ImportError:
        text = f"{path}: reading netCDF and zarr needs `pip install cupola[weather]`"
        raise DataError(text) from None
    return xarray


def is_grib(path: Path) -> bool:
    """Whether a file is GRIB, by its suffix or first bytes."""
    if not path.is_file():
        return False
    if path.suffix.lower() in GRIB_SUFFIXES:
        return True
    with path.open("rb") as file:
        return file.read(4) == b"GRIB"


def _open_grib(path: Path) -> list[Any]:
    check_regular(path)
    try:
        import cfgrib
    except Exception as error:  # it also fails where the ecCodes library is missing
        raise DataError(
            f"{path}: reading GRIB needs `pip install cupola[grib]` ({error});"
            " or convert the file to netCDF, for example with `grib_to_netcdf`"
        ) from None
    logging.getLogger("cfgrib").setLevel(logging.CRITICAL)  # it logs what it then raises
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return list(cfgrib.open_datasets(str(path), backend_kwargs={"indexpath": ""}))
    except Exception as error:
        reason = (str(error) or type(error).__name__).partition("\n")[0]
        raise DataError(f"{path}: not a readable GRIB file ({reason})") from None
