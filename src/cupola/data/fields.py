"""Opens gridded fields on disk: netCDF, zarr, GRIB, FourCastNet's HDF5; one file or many."""

from collections.abc import Sequence
from glob import glob
from pathlib import Path

from cupola.data.field_source import Array, FieldSource
from cupola.data.hdf5_fields import FourCastNetFile, has_fields
from cupola.data.series import join_sources
from cupola.data.xarray_fields import XarrayFields
from cupola.errors import DataError
from cupola.files.datasets import GRIB_SUFFIXES, HDF5_SUFFIXES, open_datasets
from cupola.structures.variables import FOURCASTNET_CHANNELS

__all__ = ["FOURCASTNET_CHANNELS", "Array", "FieldSource", "find_files", "open_fields"]

SUFFIXES = (".nc", ".nc4", ".cdf", ".zarr", *HDF5_SUFFIXES, *GRIB_SUFFIXES)


def open_fields(path: str | Path | Sequence[str | Path]) -> FieldSource:
    """Opens fields lazily, by format: a file, a zarr store, a folder, a pattern (`era5/*.nc`).

    Several files are one series in time, or one set of channels if each has its own. DataError for
    an unknown format, and for files that do not go together.
    """
    paths = find_files(path)
    return join_sources([_open(each) for each in paths], str(path))


def find_files(path: str | Path | Sequence[str | Path]) -> list[Path]:
    """The files and zarr stores that a path, a folder, a pattern or a list of them names."""
    if not isinstance(path, str | Path):
        return [found for each in path for found in find_files(each)]
    place = Path(path).expanduser()
    if not place.exists() and any(mark in str(path) for mark in "*?["):
        names = sorted(glob(str(place)))  # noqa: PTH207 - the pattern may be absolute
        found = [Path(name) for name in names]
        if not found:
            raise DataError(f"{path}: no file matches this pattern")
        return found
    if not place.exists():
        raise DataError(f"{path}: no such file or folder")
    if not place.is_dir() or is_zarr(place):
        return [place]
    found = sorted(each for each in place.iterdir() if _is_data(each))
    if not found:
        raise DataError(f"{path}: neither a zarr store nor a folder with {', '.join(SUFFIXES)}")
    return found


def _is_data(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def is_zarr(path: Path) -> bool:
    """Whether a folder is a zarr store."""
    return any((path / name).is_file() for name in (".zgroup", ".zmetadata", "zarr.json"))


def _open(path: Path) -> FieldSource:
    if path.suffix.lower() in HDF5_SUFFIXES and has_fields(path):
        return FourCastNetFile(path)
    sources = [XarrayFields(dataset, str(path)) for dataset in open_datasets(path)]
    return join_sources(sources, str(path))
