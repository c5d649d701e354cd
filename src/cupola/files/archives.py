"""Opening untrusted zip and tar archives, whose lists of entries may be far longer than files."""

import tarfile
import zipfile
from itertools import islice
from pathlib import Path

LARGEST_DIRECTORY = 8 * 2**20  # bytes of a zip archive's list: 100,000 names of 30 characters
MOST_ENTRIES = 100_000  # a checkpoint has an entry per storage
SIGNATURE = b"PK\x01\x02"  # starts each entry of the list


def open_zip(path: Path) -> zipfile.ZipFile:
    """A zip archive. BadZipFile if it is none, or lists more entries than archives have.

    The length of the list is what its end says, and the number of entries is counted: zipfile
    reads all that the length covers, whatever number the end states.
    """
    with path.open("rb") as file:
        end = zipfile._EndRecData(file)  # type: ignore[attr-defined]  # as ZipFile looks for it
        if not end:
            raise zipfile.BadZipFile("File is not a zip file")
        size, place = end[zipfile._ECD_SIZE], end[zipfile._ECD_LOCATION]  # type: ignore[attr-defined]
        if size > LARGEST_DIRECTORY:
            raise zipfile.BadZipFile(f"its list of entries claims {size} bytes")
        start = place - size - (76 if end[zipfile._ECD_SIGNATURE] == b"PK\x06\x06" else 0)  # type: ignore[attr-defined]
        file.seek(max(start, 0))
        count = file.read(size).count(SIGNATURE)
        if count > MOST_ENTRIES:
            raise zipfile.BadZipFile(f"it has {count} entries")
    return zipfile.ZipFile(path)


def tar_members(archive: tarfile.TarFile) -> list[tarfile.TarInfo]:
    """The members of a tar archive; ReadError for more than archives have."""
    members = list(islice(archive, MOST_ENTRIES + 1))
    if len(members) > MOST_ENTRIES:
        raise tarfile.ReadError(f"it has more than {MOST_ENTRIES} members")
    return members
