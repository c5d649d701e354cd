"""Scientific files hold their own values, and reading them executes nothing."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from cupola.data.fields import open_fields
from cupola.errors import DataError
from cupola.files.scientific import check_scientific, read_array


def secret(folder: Path) -> Path:
    path = folder / "secret.bin"
    path.write_bytes(np.arange(16, dtype=np.float32).tobytes())
    return path


def test_hdf5_that_reads_other_files(tmp_path: Path) -> None:
    import h5py

    where = secret(tmp_path)
    with h5py.File(tmp_path / "external.h5", "w") as file:
        storage = [(str(where), 0, 64)]
        file.create_dataset("fields", (1, 1, 4, 4), "f4", external=storage)
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = np.zeros((1, 1, 4, 4), np.float32)
    with h5py.File(tmp_path / "link.h5", "w") as file:
        file["fields"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/x")
    with h5py.File(tmp_path / "virtual.h5", "w") as file:
        layout = h5py.VirtualLayout((1, 1, 4, 4), "f4")
        layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "x", (1, 1, 4, 4))
        file.create_virtual_dataset("fields", layout)
    with h5py.File(tmp_path / "deep.nc", "w") as file:
        file.create_dataset("a/b/c", (16,), "f4", external=[(str(where), 0, 64)])
    for name, said in {
        "external.h5": "keeps its values in the file",
        "link.h5": "is a link to the file",
        "virtual.h5": "is a virtual dataset",
        "deep.nc": "/a/b/c keeps its values",
    }.items():
        with pytest.raises(DataError, match=said):
            open_fields(tmp_path / name)


def test_hdf5_behind_another_content(tmp_path: Path) -> None:
    import h5py

    for start in (512, 4096):
        with h5py.File(tmp_path / "x.nc", "w", userblock_size=start) as file:
            storage = [(str(secret(tmp_path)), 0, 64)]
            file.create_dataset("x", (16,), "f4", external=storage)
        with pytest.raises(DataError, match="keeps its values in the file"):
            check_scientific(tmp_path / "x.nc")


def test_sides_and_coordinates_are_as_long_as_what_is_stored(tmp_path: Path) -> None:
    import h5py

    path = tmp_path / "2018.h5"
    for shape in ((10**12, 1, 4, 4), (1, 1, 10**10, 4), (1, 1, 4, 10**10)):
        with h5py.File(path, "w") as file:
            file.create_dataset("fields", shape, "f4", chunks=(1, 1, 4, 4))
        with pytest.raises(DataError, match="`fields` has shape"):
            open_fields(path)
    with h5py.File(path, "w") as file:
        file.create_dataset("latitude", (10**10,), "f8", chunks=(100,))
    with pytest.raises(DataError, match="/latitude claims 80000000000 bytes, of which 0 are"):
        open_fields(path)
    store = tmp_path / "s.zarr"
    (store / "lat").mkdir(parents=True)
    (store / ".zgroup").write_text('{"zarr_format": 2}')
    (store / "lat/.zarray").write_text(json.dumps({"shape": [10**10], "chunks": [100]}))
    with pytest.raises(DataError, match="claims 80000000000 bytes"):
        open_fields(store)


def test_counts_of_hdf5_are_bounded(tmp_path: Path) -> None:
    import h5py

    with h5py.File(tmp_path / "wide.h5", "w") as file:
        file.create_dataset("fields", (1, 10**8, 4, 4), "f4", chunks=(1, 1, 4, 4))
    with pytest.raises(DataError, match="100000000 channels"):
        open_fields(tmp_path / "wide.h5")
    with h5py.File(tmp_path / "cycle.h5", "w") as file:
        file["a"] = file.create_group("g")
        file["g/again"] = file["g"]
    check_scientific(tmp_path / "cycle.h5")


@pytest.mark.parametrize(
    "content", [b"", b"\x89HDF\r\n\x1a\n" + b"\0" * 600, b"CDF\x01" + b"x" * 99]
)
def test_damaged_files_are_one_line(tmp_path: Path, content: bytes) -> None:
    for name in ("x.nc", "x.h5"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=name) as caught:
            open_fields(tmp_path / name)
        assert len(str(caught.value).splitlines()) == 1


def test_zarr_that_would_execute_code(tmp_path: Path) -> None:
    store = tmp_path / "s.zarr"
    (store / "x").mkdir(parents=True)
    (store / ".zgroup").write_text('{"zarr_format": 2}')
    array = {"filters": [{"id": "pickle"}], "dtype": "|O", "shape": [1], "chunks": [1]}
    (store / "x/.zarray").write_text(json.dumps(array))
    with pytest.raises(DataError, match=r"the codec 'pickle' executes code"):
        open_fields(store)
    (store / "x/.zarray").unlink()
    (store / "x/0").symlink_to("/etc/passwd")
    with pytest.raises(DataError, match="is a link"):
        open_fields(store)


def test_pipes_are_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.nc")
    with pytest.raises(DataError, match="is a pipe"):
        open_fields(tmp_path / "x.nc")


def test_arrays_of_objects_and_lying_headers(tmp_path: Path) -> None:
    np.save(tmp_path / "objects.npy", np.array([{}], object), allow_pickle=True)
    np.save(tmp_path / "lying.npy", np.zeros(3))
    data = (tmp_path / "lying.npy").read_bytes().replace(b"(3,), }      ", b"(3000000000,),}")
    (tmp_path / "lying.npy").write_bytes(data)
    for name in ("objects.npy", "lying.npy"):
        with pytest.raises(DataError, match=rf"{name}: not a readable .npy file"):
            read_array(tmp_path / name)
    np.save(tmp_path / "good.npy", np.arange(3.0))
    assert read_array(tmp_path / "good.npy").tolist() == [0, 1, 2]
