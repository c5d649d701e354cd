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
