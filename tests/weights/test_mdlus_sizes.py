"""Archives whose member is far larger than the file are refused before it is read."""

import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from cupola.errors import CheckpointError
from cupola.weights.mdlus import member_bytes


def test_a_deflated_member_of_zeros(tmp_path: Path) -> None:
    path = tmp_path / "bomb.mdlus"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model.pt", bytes(10**7))
    with pytest.raises(CheckpointError, match=r"claims 10000000 bytes, more than the file"):
        member_bytes(path)


def test_a_compressed_tar(tmp_path: Path) -> None:
    path = tmp_path / "bomb.mdlus"
    with tarfile.open(path, "w:gz") as archive:
        entry = tarfile.TarInfo("model.pt")
        entry.size = 10**7
        archive.addfile(entry, io.BytesIO(bytes(10**7)))
    with pytest.raises(CheckpointError, match="not a physicsnemo package"):
        member_bytes(path)


def test_links_to_other_members(tmp_path: Path) -> None:
    path = tmp_path / "link.mdlus"
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("other"))
        entry = tarfile.TarInfo("model.pt")
        entry.type, entry.linkname = tarfile.LNKTYPE, "other"
        archive.addfile(entry)
    with pytest.raises(CheckpointError, match="not a physicsnemo package"):
        member_bytes(path)


@pytest.mark.parametrize("size", [2**45, 10**9])
def test_headers_of_a_claimed_size(tmp_path: Path, size: int) -> None:
    path, entry = tmp_path / "long.mdlus", tarfile.TarInfo("x")
    entry.type, entry.size = tarfile.GNUTYPE_LONGNAME, size
    path.write_bytes(entry.tobuf(tarfile.GNU_FORMAT) + b"a" * 1024)
    with pytest.raises(CheckpointError, match="not a physicsnemo package"):
        member_bytes(path)


def test_compression_without_bounds_and_passwords(tmp_path: Path) -> None:
    path = tmp_path / "odd.mdlus"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("model.pt", bytes(1000))
    with pytest.raises(CheckpointError, match="compression has no bounds"):
        member_bytes(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model.pt", bytes(1000))
    data = bytearray(path.read_bytes())
    data[6] |= 1
    data[data.find(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="encrypted"):
        member_bytes(path)
