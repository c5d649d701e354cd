"""physicsnemo's .mdlus packages: an archive with the arguments of a model and its state."""

import tarfile
import zipfile
from pathlib import Path

from cupola.errors import CheckpointError

MEMBER = "model.pt"
MOST_COMPRESSION = 4


def member_bytes(path: Path) -> bytes:
    """The state dict's file inside a package, a zip (today) or a tar (before version 1.3)."""
    try:
        if not tarfile.is_tarfile(path):  # first: such a tar may pass as a zip
            with zipfile.ZipFile(path) as archive:
                _check_size(path, archive.getinfo(MEMBER).file_size)
                return archive.read(MEMBER)
        with tarfile.open(path, "r:") as archive:  # not compressed: a few bytes may be gigabytes
            names = [name for name in archive.getnames() if Path(name).name == MEMBER]
            if names:
                _check_size(path, archive.getmember(names[0]).size)
            file = archive.extractfile(names[0]) if names else None
            if file is None:
                raise KeyError(MEMBER)
            return file.read()
    except (KeyError, tarfile.TarError, zipfile.BadZipFile, OSError) as error:
        raise CheckpointError(f"{path}: not a physicsnemo package ({error})") from None


def _check_size(path: Path, size: int) -> None:
    """Raise CheckpointError for a member much larger than its archive: weights do not compress."""
    if size > MOST_COMPRESSION * path.stat().st_size:
        raise CheckpointError(f"{path}: {MEMBER} claims {size} bytes, more than the file can hold")


def extract_state(path: Path, folder: Path) -> Path:
    """Writes the state dict's file into `folder`; nothing else in the archive is read."""
    target = folder / MEMBER
    target.write_bytes(member_bytes(path))
    return target
