"""Checks before a scientific library opens an untrusted file: nothing outside it is read or run.

HDF5 can store values in other files (external storage, external links, virtual datasets) and zarr
can name codecs that unpickle. Both are refused.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cupola.errors import CupolaError, DataError
from cupola.files.opening import check_regular, read_json

HDF5_START = b"\x89HDF\r\n\x1a\n"
MOST_OBJECTS = 10_000  # datasets and groups of one HDF5 file
USER_BLOCKS = (0, *(512 << n for n in range(12)))  # where the content of an HDF5 file may begin
# A coordinate is read when a file is opened, and may be far longer than what is stored of it.
LARGEST_COORDINATE, MOST_COMPRESSION = 16 * 2**20, 20
METADATA = (".zarray", ".zgroup", ".zattrs", ".zmetadata", "zarr.json")
CODECS_THAT_UNPICKLE = {"pickle"}
LARGEST_METADATA, MOST_METADATA = 16 * 2**20, 30_000  # bytes, and lists and objects


def check_scientific(path: Path) -> None:
    """Raise DataError unless a file (netCDF, HDF5) or folder (zarr) only holds its own values."""
    if path.is_dir():
        check_zarr(path)
        return
    check_regular(path)
    if _is_hdf5(path) or path.suffix in (".h5", ".hdf5"):
        check_hdf5(path)


def _is_hdf5(path: Path) -> bool:
    """Whether the library finds HDF5 in a file, which may have another content in front."""
    with path.open("rb") as file:
        for start in USER_BLOCKS:
            file.seek(start)
            if file.read(len(HDF5_START)) == HDF5_START:
                return True
    return False


def read_array(path: str | Path, error: type[CupolaError] = DataError) -> Any:
    """The array of an .npy file, copied. Pickled objects are refused, as are sizes that lie."""
    return np.array(map_array(Path(path), error))


def map_array(path: Path, error: type[CupolaError] = DataError) -> Any:
    """The array of an .npy file, mapped. Archives of arrays (.npz) are refused."""
    check_regular(path, error)
    try:
        array = np.lib.format.open_memmap(path, mode="r")
        if array.dtype.kind not in "biuf":
            raise ValueError(f"values of type {array.dtype} are not numbers")
        return array
    except Exception as problem:  # the header of a damaged file raises many kinds
        reason = (str(problem) or type(problem).__name__).splitlines()[0]
        raise error(f"{path}: not a readable .npy file ({reason})") from None


def check_hdf5(path: Path) -> None:
    """Raise DataError for external storage, external links, virtual datasets, too many objects."""
    try:
        import h5py
    except ImportError:
        raise DataError(f"{path}: reading it needs `pip install cupola[weather]`") from None
    try:
        with h5py.File(path, "r") as file:
            for count, (name, item) in enumerate(_members(file, h5py)):
                if count >= MOST_OBJECTS:
                    raise DataError(f"{path}: holds more than {MOST_OBJECTS} datasets and groups")
                _check_dataset(path, name, item, h5py)
    except CupolaError:
        raise
    except Exception as error:  # h5py raises many kinds for a damaged file
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(f"{path}: not a readable HDF5 file ({reason})") from None


def _members(group: Any, h5py: Any) -> Iterator[tuple[str, Any]]:
    """Everything below a group by hard links, each object once; other links as they are."""
    waiting, seen = [("", group)], set()
    while waiting:
        prefix, current = waiting.pop()
        for name in current:
            full, link = f"{prefix}/{name}", current.get(name, getlink=True)
            if not isinstance(link, h5py.HardLink):
                yield full, link
                continue
            item = current[name]
            address = h5py.h5o.get_info(item.id).addr
            if address in seen:
                continue
            seen.add(address)
            yield full, item
            if isinstance(item, h5py.Group):
                waiting.append((full, item))


def _check_dataset(path: Path, name: str, item: Any, h5py: Any) -> None:
    if isinstance(item, h5py.ExternalLink):
        raise DataError(f"{path}: {name} is a link to the file {item.filename!r}")
    if isinstance(item, h5py.Dataset):
        if item.external:
            raise DataError(f"{path}: {name} keeps its values in the file {item.external[0][0]!r}")
        if item.is_virtual:
            raise DataError(f"{path}: {name} is a virtual dataset, which reads other files")
        if item.ndim == 1:
            _check_coordinate(f"{path}: {name}", item.nbytes, item.id.get_storage_size())


def _check_coordinate(name: str, size: int, stored: int) -> None:
    if size > max(LARGEST_COORDINATE, MOST_COMPRESSION * stored):
        raise DataError(f"{name} claims {size} bytes, of which {stored} are stored")


def check_zarr(path: Path) -> None:
    """Raise DataError for codecs that unpickle, and for links or other odd files in the store."""
    for entry in _entries(path):
        if entry.is_symlink():
            raise DataError(f"{entry.path}: is a link; copy the store without links")
        if not entry.is_dir() and not entry.is_file():
            raise DataError(f"{entry.path}: is not a regular file")
        if entry.name in METADATA:
            content = read_json(Path(entry.path), LARGEST_METADATA, most=MOST_METADATA)
            _check_side(Path(entry.path), content)
            for name in _names(content):
                if name in CODECS_THAT_UNPICKLE:
                    raise DataError(f"{entry.path}: the codec {name!r} executes code")


def _check_side(path: Path, content: Any) -> None:
    """Refuse an array of one dimension that is far longer than its chunks."""
    shape = content.get("shape") if isinstance(content, dict) else None
    if not isinstance(shape, list) or len(shape) != 1 or not isinstance(shape[0], int):
        return
    if shape[0] * 8 > LARGEST_COORDINATE:
        stored = sum(entry.stat().st_size for entry in _entries(path.parent))
        _check_coordinate(str(path), shape[0] * 8, stored)


def _entries(folder: Path) -> Iterator["os.DirEntry[str]"]:
    """Everything below a folder. A store has a file per chunk: scandir knows kinds without stat."""
    waiting = [str(folder)]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                yield entry
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)


def _names(value: Any) -> Iterator[str]:
    """The names of codecs anywhere in the metadata."""
    waiting = [value]
    while waiting:
        current = waiting.pop()
        if isinstance(current, dict):
            yield from (str(current[key]) for key in ("id", "name") if key in current)
            waiting += current.values()
        elif isinstance(current, list):
            waiting += current
