"""Keeps freed memory for the next call instead of returning it to the system.

glibc returns every tensor above 32 MB to the system when it is freed, and the kernel clears the
pages of the next one. In a detector's first stages that takes as long as the convolutions.
"""

import ctypes
import os

KEPT = 512 * 1024**2  # bytes of free memory that a process keeps, and of the largest tensor in it
# Options of mallopt(3), from glibc's malloc.h.
TRIM_THRESHOLD, MMAP_THRESHOLD, ARENA_MAX = -1, -3, -8
CHOSEN_BY_USER = ("GLIBC_TUNABLES", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_")


def keep_freed_memory(size: int = KEPT) -> bool:
    """Keeps up to `size` bytes that this process frees; False where the C library cannot.

    The largest use of memory stays the same, but up to `size` bytes of it remain in use between
    calls. All threads that start later share one arena, since that of a single thread has no room
    for tensors of this size. Environment variables that set the same for the process prevail.
    """
    if any(name in os.environ for name in CHOSEN_BY_USER):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # no glibc
        return False
    settings = ((ARENA_MAX, 1), (MMAP_THRESHOLD, size), (TRIM_THRESHOLD, size))
    done = [mallopt(option, value) for option, value in settings]
    return all(done)
