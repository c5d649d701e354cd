"""Archives whose lists of entries are longer than files have, or lie."""

import io
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from cupola.data.text import PackedText
from cupola.errors import CheckpointError, DataError
from cupola.files.archives import open_zip, tar_members
from cupola.files.scientific import read_array
from cupola.weights import read_checkpoint

ENTRY = b"PK\x01\x02" + bytes(24) + struct.pack("<H", 1) + bytes(16) + b"a"


def end(count: int, size: int, start: int) -> bytes:
    return b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, count, count, size, start, 0)


def end_64(count: int, size: int, start: int, place: int) -> bytes:
    record = struct.pack("<4sQHHIIQQQQ", b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, size, start)
    locator = struct.pack("<4sIQI", b"PK\x06\x07", 0, place, 1)
    return record + locator + end(0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF)


def archive(entries: int, count: int | None = None, size: int | None = None, big: bool = False):
    """An archive of empty entries, whose end states another number or size."""
    first = b"PK\x03\x04" + bytes(26)
    listed = ENTRY * entries
    count = entries if count is None else count
    size = len(listed) if size is None else size
    if big:
        return first + listed + end_64(count, size, len(first), len(first) + len(listed))
    return first + listed + end(count & 0xFFFF, size, len(first))


BOMBS = {
    "many": (archive(100_001), "it has 100001 entries"),
    "many, one stated": (archive(100_001, count=1), "it has 100001 entries"),
    "many, zip64": (archive(100_001, count=1, big=True), "it has 100001 entries"),
    "a long list": (archive(200_000), "its list of entries claims 9400000 bytes"),
    "a long list, zip64": (archive(1, size=2**40, big=True), "claims 1099511627776 bytes"),
    "a list beyond the file": (archive(1, size=2**31), "claims 2147483648 bytes"),
}


@pytest.mark.parametrize("name", BOMBS)
@pytest.mark.parametrize("suffix", [".pth", ".mdlus"])
def test_long_lists_are_refused(tmp_path: Path, name: str, suffix: str) -> None:
    content, words = BOMBS[name]
    path = tmp_path / f"bomb{suffix}"
    path.write_bytes(content)
    with pytest.raises(zipfile.BadZipFile, match=words):
        open_zip(path)
    with pytest.raises(CheckpointError, match=words) as caught:
        read_checkpoint(path)
    assert str(path) in str(caught.value)


def test_what_zipfile_reads_is_opened(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("x", b"")
    with open_zip(path) as file:
        assert file.namelist() == ["x"]
    path.write_bytes(archive(70_000, big=True))  # more than 65,535 need zip64
    with open_zip(path) as file:
        assert len(file.namelist()) == 70_000


def test_a_tar_of_many_members(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cupola.files.archives.MOST_ENTRIES", 5)
    path = tmp_path / "bomb.mdlus"
    with tarfile.open(path, "w") as file:
        for number in range(6):
            file.addfile(tarfile.TarInfo(str(number)), io.BytesIO())
    with tarfile.open(path) as file, pytest.raises(tarfile.ReadError, match="more than 5 members"):
        tar_members(file)
    with pytest.raises(CheckpointError, match="more than 5 members"):
        read_checkpoint(path)


def test_archives_of_arrays_are_refused_by_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros(3))
    (tmp_path / "train.npy").write_bytes((tmp_path / "a.npz").read_bytes())
    with pytest.raises(DataError, match=r"a\.npz: not a readable \.npy file"):
        read_array(tmp_path / "a.npz")
    with pytest.raises(DataError, match=r"train\.npy: not a readable \.npy file"):
        PackedText(tmp_path, "train", 4)
    np.save(tmp_path / "train.npy", np.zeros((4, 4)))
    with pytest.raises(DataError, match="not a row of token ids, but float64 of shape"):
        PackedText(tmp_path, "train", 4)
