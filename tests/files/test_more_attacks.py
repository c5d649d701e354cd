"""Attacks on readers by sizes, names and counts: each is one error that names its file."""

import json
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from cupola.bundles import hf_images
from cupola.cli.evaluate import training_config
from cupola.data.nuscenes_images import read_view
from cupola.data.nuscenes_samples import CameraView
from cupola.errors import BundleError, CheckpointError, CupolaError, DataError
from cupola.files.adapters import read_adapter_config
from cupola.files.chat import read_chat_template
from cupola.files.datasets import open_datasets
from cupola.files.opening import locate
from cupola.files.scientific import read_array
from cupola.files.weights import weight_files
from cupola.weights import read_checkpoint


def view(size: tuple[int, ...], stride: tuple[int, ...], offset: int = 0, count: int = 16) -> bytes:
    """The pickle of a state dict with one float tensor, a view of storage 0."""

    def number(value: int) -> bytes:
        text = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
        return b"\x8a" + bytes([len(text)]) + text

    def numbers(values: tuple[int, ...]) -> bytes:
        return b"(" + b"".join(map(number, values)) + b"t"

    storage = b"(U\x07storagectorch\nFloatStorage\nU\x010U\x03cpu" + number(count) + b"tQ"
    tensor = storage + number(offset) + numbers(size) + numbers(stride)
    return (
        b"\x80\x02}U\x01wctorch._utils\n_rebuild_tensor_v2\n(" + tensor
        + b"\x89ccollections\nOrderedDict\n)RtRs."
    )  # fmt: skip


VIEWS = {
    "expanded to 10^12": view((10**6, 10**6), (0, 0)),
    "a negative stride": view((4,), (-1,), 8),
    "a negative offset": view((4,), (1,), -8),
    "a stride of 200 bits": view((1,), (2**200,)),
    "a size of 200 bits": view((0, 2**200), (1, 1)),
    "a storage of 10^15": view((4,), (1,), count=10**15),
    "beyond the storage": view((4,), (8,)),
    "5000 dimensions": view((1,) * 5000, (1,) * 5000),
}


@pytest.mark.parametrize("name", VIEWS)
def test_views_of_a_storage(tmp_path: Path, name: str) -> None:
    path = tmp_path / "c.pth"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a/data.pkl", VIEWS[name])
        file.writestr("a/data/0", bytes(64))
    with pytest.raises(CheckpointError, match=r"c\.pth: "):
        read_checkpoint(path)


def test_many_expanded_tensors(tmp_path: Path) -> None:
    one = torch.ones(1).expand(2**20)
    torch.save(OrderedDict((f"w{i}", one) for i in range(3)), tmp_path / "few.pth")
    assert len(read_checkpoint(tmp_path / "few.pth")) == 3
    torch.save(OrderedDict((f"w{i}", one) for i in range(100)), tmp_path / "many.pth")
    with pytest.raises(CheckpointError, match=r"many\.pth: its tensors repeat what is stored"):
        read_checkpoint(tmp_path / "many.pth")


SHAPES = {
    "strides that overflow": [0, 2**62, 4],
    "a side of 64 bits": [2**63, 0],
    "both": [2**63 - 1, 2**63 - 1, 0],
    "100,000 dimensions": [1] * 100_000,
}


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_of_safetensors(tmp_path: Path, name: str) -> None:
    stop = 0 if 0 in SHAPES[name] else 4
    header = {"w": {"dtype": "F32", "shape": SHAPES[name], "data_offsets": [0, stop]}}
    text = json.dumps(header).encode()
    path = tmp_path / "c.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(stop))
    with pytest.raises(CheckpointError, match=r"c\.safetensors: not a readable safetensors file"):
        read_checkpoint(path)


@pytest.mark.parametrize("name", ["a" * 10**5, "a/" * 10**5, 5, None, ["a"]])
def test_names_that_are_no_names(tmp_path: Path, name: object) -> None:
    with pytest.raises(DataError, match=r"a file name has|the file name is") as caught:
        locate(tmp_path, name)  # type: ignore[arg-type]
    assert len(str(caught.value)) < 500


FILES: dict[str, Callable[[Path], object]] = {
    "adapter_config.json": read_adapter_config,
    "tokenizer_config.json": read_chat_template,
    "preprocessor_config.json": lambda folder: hf_images.image_settings(folder, 3),
    "model.safetensors.index.json": weight_files,
}


@pytest.mark.parametrize("name", FILES)
def test_giant_settings(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("[" + "[]," * 100_000 + "[]]")
    with pytest.raises(CupolaError, match=f"{name}: has more than 100000 lists and objects"):
        FILES[name](tmp_path)
    with (tmp_path / name).open("wb") as file:
        file.truncate(2**34)
    with pytest.raises(CupolaError, match=f"{name}: has 17179869184 bytes, more than"):
        FILES[name](tmp_path)


@pytest.mark.parametrize("dtype", ["|V0", "|O", "<U5", "|V1000"])
def test_arrays_that_are_no_numbers(tmp_path: Path, dtype: str) -> None:
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': (10000000000000,)}}"
    start = b"\x93NUMPY\x01\0" + struct.pack("<H", 118)
    (tmp_path / "a.npy").write_bytes(start + header.ljust(117).encode() + b"\n" + bytes(80))
    with pytest.raises(DataError, match=r"a\.npy: not a readable \.npy file"):
        read_array(tmp_path / "a.npy")


def test_a_coordinate_of_gigabytes_in_200_bytes(tmp_path: Path) -> None:
    pytest.importorskip("netCDF4")
    name = struct.pack(">I", 1) + b"x\0\0\0"
    dimensions = struct.pack(">II", 10, 1) + name + struct.pack(">I", 2**31 - 1)
    variable = name + struct.pack(">II", 1, 0) + bytes(8) + struct.pack(">IIQ", 6, 2**32 - 1, 200)
    start = b"CDF\x02" + bytes(4) + dimensions + bytes(8) + struct.pack(">II", 11, 1)
    (tmp_path / "a.nc").write_bytes(start + variable + bytes(100))
    with pytest.raises(
        DataError, match=r"a\.nc: neither netCDF nor zarr \(it needs too much memory"
    ):
        open_datasets(tmp_path / "a.nc")


def test_metadata_of_zarr(tmp_path: Path) -> None:
    pytest.importorskip("zarr")
    array = {"zarr_format": 2, "shape": [4], "chunks": [4], "dtype": "<f8"}
    metadata = {f"a{i}/.zarray": array for i in range(10_000)}
    (tmp_path / "a.zarr").mkdir()
    (tmp_path / "a.zarr" / ".zmetadata").write_text(json.dumps({"metadata": metadata}))
    with pytest.raises(DataError, match="has more than 30000 lists and objects"):
        open_datasets(tmp_path / "a.zarr")


def test_a_camera_whose_file_is_a_number(tmp_path: Path) -> None:
    camera = CameraView("CAM_FRONT", 5, np.eye(4))  # type: ignore[arg-type]
    with pytest.raises(DataError, match="the file name of a camera is 5; expected a text"):
        read_view(tmp_path, camera)


def test_a_training_config_that_is_none(tmp_path: Path) -> None:
    class Bundle:
        path = tmp_path

    for text, words in (("[]", "expected an object"), ("{", "is not JSON")):
        (tmp_path / "training.json").write_text(text)
        with pytest.raises(BundleError, match=rf"training\.json: {words}"):
            training_config(Bundle())  # type: ignore[arg-type]


def test_numbers_are_read(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(3))
    assert read_array(tmp_path / "a.npy").tolist() == [0, 1, 2]
