"""PyTorch's own checkpoint files, read without PyTorch's unpickler.

A file is an archive (since PyTorch 1.6) of one pickle and one entry per storage, or the older
sequence of pickles followed by the storages' bytes. Tensors are views of the mapped file. Every
other object becomes an inert placeholder: no global that the file names is imported or called.
"""

import io
import mmap
import pickle
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cupola.files.archives import open_zip
from cupola.files.pickles import PLAIN, check_pickle
from cupola.weights.torch_objects import TENSORS, TensorUnpickler, typed, unwrap

LEGACY_MAGIC = (0x1950A86A20F9469CFC6C).to_bytes(10, "little")  # the first pickle holds it
LARGEST_PICKLE = 1 << 30  # bytes of an archive's data.pkl; published ones stay below 1 MB
PACKINGS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # others unpack more than entries claim
GROWTH = 8  # a compressed archive may unpack to so many times its size


def read_torch_file(path: Path) -> Any:
    """The content of a PyTorch file, tensors on the CPU.

    Plain pickles (of detectron2, or of NumPy's arrays) are read as well; their arrays stay arrays.
    Raises pickle.UnpicklingError, zipfile.BadZipFile, EOFError, OSError or ValueError, each with
    one line that says what is wrong.
    """
    with path.open("rb") as file:
        if zipfile.is_zipfile(file):
            return unwrap(_Archive(path).load())
        file.seek(0)
        is_legacy = LEGACY_MAGIC in file.read(32)
    return unwrap(_read_sequence(path, is_legacy))


class _Archive:
    """A PyTorch archive whose entries lie, uncompressed, in the mapped file."""

    def __init__(self, path: Path) -> None:
        self.zip = open_zip(path)
        self.entries = {entry.filename: entry for entry in self.zip.infolist()}
        self.size = path.stat().st_size
        pickles = [name for name in self.entries if name.rpartition("/")[2] == "data.pkl"]
        if not pickles:
            raise ValueError("an archive without data.pkl: not a PyTorch checkpoint")
        self.root = pickles[0].removesuffix("data.pkl")
        if any(name.startswith(f"{self.root}code/") for name in self.entries):
            raise ValueError("a TorchScript program, not a checkpoint; save its state_dict()")
        self._check_sizes()
        if self.read(f"{self.root}byteorder", 16) == b"big":
            raise ValueError("written on a big-endian machine; save it as safetensors there")
        with path.open("rb") as file:
            self.pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)

    def _check_sizes(self) -> None:
        if any(entry.compress_type not in PACKINGS for entry in self.entries.values()):
            raise ValueError("its entries are compressed in a way that has no bounds")
        total = sum(entry.file_size for entry in self.entries.values())
        packed = any(entry.compress_type != zipfile.ZIP_STORED for entry in self.entries.values())
        if total > (GROWTH if packed else 1) * self.size:
            raise ValueError(f"its entries claim {total} bytes, in a file of {self.size}")

    def read(self, name: str, limit: int) -> bytes:
        """An entry's bytes, b"" where there is none."""
        entry = self.entries.get(name)
        if entry is None:
            return b""
        if entry.file_size > limit:
            raise ValueError(f"{name} has {entry.file_size} bytes")
        try:
            return self.zip.read(entry)
        except zlib.error as error:
            raise zipfile.BadZipFile(f"{name}: {error}") from None

    def load(self) -> Any:
        data = self.read(f"{self.root}data.pkl", LARGEST_PICKLE)

        def read() -> Any:
            return TensorUnpickler(io.BytesIO(data), self.storage).load()

        check_pickle(read, len(data), others=self.size)
        return read()

    def storage(self, dtype: torch.dtype, key: str, count: int) -> Tensor:
        """The elements of one storage; pages are copy-on-write."""
        name = f"{self.root}data/{key}"
        entry = self.entries.get(name)
        if entry is None:
            raise pickle.UnpicklingError(f"storage {key[:40]} is missing")
        size = count * dtype.itemsize
        if size > entry.file_size:
            raise pickle.UnpicklingError(f"storage {key[:40]} is shorter than it says")
        if not size:
            return torch.empty(0, dtype=dtype)
        if entry.compress_type != zipfile.ZIP_STORED:
            raw = torch.frombuffer(bytearray(self.zip.read(entry)), dtype=torch.uint8)
        else:
            start = self._start(entry)
            raw = torch.frombuffer(self.pages, dtype=torch.uint8, count=size, offset=start)
        return typed(raw[:size], dtype)

    def _start(self, entry: zipfile.ZipInfo) -> int:
        """Where an entry's bytes begin: after its own header, which repeats name and extras."""
        at = entry.header_offset
        header = self.pages[at : at + 30]
        if len(header) < 30 or header[:4] != b"PK\x03\x04":
            raise zipfile.BadZipFile("an entry's header is damaged")
        name, extra = int.from_bytes(header[26:28], "little"), int.from_bytes(header[28:], "little")
        start = at + 30 + name + extra
        if start + entry.file_size > self.size:
            raise zipfile.BadZipFile("an entry reaches beyond the file")
        return start


def _read_sequence(path: Path, is_legacy: bool) -> Any:
    size = path.stat().st_size

    def read() -> Any:
        with path.open("rb") as file:
            sequence = _Sequence(file, size)
            return sequence.load() if is_legacy else sequence.unpickle({**TENSORS, **PLAIN})

    check_pickle(read, min(size, LARGEST_PICKLE), others=size)
    return read()


class _Sequence:
    """The format before PyTorch 1.6: five pickles, then the bytes of every storage."""

    def __init__(self, file: Any, size: int) -> None:
        self.file, self.size = file, size
        self.storages: dict[str, Tensor] = {}

    def load(self) -> Any:
        """The content; the storages are filled after the pickle that uses them."""
        self.unpickle()  # the magic number
        self.unpickle()  # the version of the format
        machine = self.unpickle()
        if isinstance(machine, Mapping) and not machine.get("little_endian", True):
            raise ValueError("written on a big-endian machine; save it as safetensors there")
        content = self.unpickle()
        for key in self.unpickle():
            self._fill(str(key))
        return content

    def unpickle(self, known: Mapping[str, Any] = TENSORS) -> Any:
        """The next pickle of the file."""
        return TensorUnpickler(self.file, self._allocate, known).load()

    def _allocate(self, dtype: torch.dtype, key: str, count: int) -> Tensor:
        taken = sum(each.numel() * each.element_size() for each in self.storages.values())
        if taken + count * dtype.itemsize > self.size:
            raise pickle.UnpicklingError(f"storage {key[:40]} claims more bytes than the file has")
        self.storages[key] = torch.empty(count, dtype=dtype)
        return self.storages[key]

    def _fill(self, key: str) -> None:
        count = int.from_bytes(self.file.read(8), "little")
        storage = self.storages.get(key)
        if storage is None or storage.numel() != count:
            raise pickle.UnpicklingError(f"storage {key[:40]} is damaged")
        raw = storage.view(torch.uint8).numpy()  # filled without an operation of torch's
        if self.file.readinto(raw) != len(raw):
            raise EOFError(f"the file ends within storage {key[:40]}")
