"""physicsnemo's .mdlus packages: an archive with the arguments of a model and its state."""

import tarfile
import zipfile
import zlib
from pathlib import Path

from cupola.errors import CheckpointError
from cupola.files.archives import open_zip, tar_members

MEMBER = "model.pt"
MOST_COMPRESSION = 4
# What damaged, encrypted and lying archives raise.
BROKEN: tuple[type[Exception], ...] = (
    *(KeyError, OSError, RuntimeError, ValueError, MemoryError, OverflowError, EOFError),
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error),
)


def member_bytes(path: Path) -> bytes:
    """The state dict's file inside a package, a zip (today) or a tar (before version 1.3)."""
    try:
        archive = _open_tar(path)  # first: such a tar may pass as a zip
        if archive is None:
            return _from_zip(path)
        with archive:
            members = (each for each in tar_members(archive) if Path(each.name).name == MEMBER)
            member = next(members, None)
            if member is None or not member.isreg():  # a link leads to a member of another size
                raise KeyError(MEMBER)
            _check_size(path, member.size)
            file = archive.extractfile(member)
            return file.read() if file else b""
    except BROKEN as error:
        reason = str(error) or type(error).__name__
        raise CheckpointError(f"{path}: not a physicsnemo package ({reason})") from None


def _open_tar(path: Path) -> tarfile.TarFile | None:
    """None for what is no tar. Compressed ones are none: a few bytes may be gigabytes."""
    try:
        return tarfile.open(path, "r:")
    except tarfile.TarError:
        return None


def _from_zip(path: Path) -> bytes:
    with open_zip(path) as archive:
        entry = archive.getinfo(MEMBER)
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise zipfile.BadZipFile("its compression has no bounds")
        _check_size(path, entry.file_size)
        return archive.read(entry)


def _check_size(path: Path, size: int) -> None:
    """Raise CheckpointError for a member much larger than its archive: weights do not compress."""
    if size > MOST_COMPRESSION * path.stat().st_size:
        raise CheckpointError(f"{path}: {MEMBER} claims {size} bytes, more than the file can hold")


def extract_state(path: Path, folder: Path) -> Path:
    """Writes the state dict's file into `folder`; nothing else in the archive is read."""
    target = folder / MEMBER
    target.write_bytes(member_bytes(path))
    return target
