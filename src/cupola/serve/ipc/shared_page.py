"""A file of fixed size in the runtime directory, mapped by several processes."""

import mmap
import os
from pathlib import Path


def open_page(path: Path, size: int, *, create: bool) -> mmap.mmap:
    """Maps the file. With `create` it is made if missing; OSError if there is no space for it.

    The space is allocated here: writing to a page of a sparse file on a full disk is a SIGBUS.
    """
    flags = os.O_RDWR | os.O_NOFOLLOW | (os.O_CREAT if create else 0)
    fd = os.open(path, flags, 0o600)
    try:
        if create:
            os.posix_fallocate(fd, 0, size)
        return mmap.mmap(fd, size)
    finally:
        os.close(fd)
