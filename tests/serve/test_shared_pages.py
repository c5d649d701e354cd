"""Shared pages: a reader never sees a number half written, and a full disk is no SIGBUS."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cupola.serve.ipc import shared_page
from cupola.serve.ipc.in_flight import InFlightCounter
from cupola.serve.ipc.scoreboard import Scoreboard

SECONDS = 0.5


def beside(write: Callable[[], None], read: Callable[[], None]) -> None:
    """Reads in a tight loop while another process writes in one."""
    pid = os.fork()
    if pid == 0:
        while True:
            write()
    try:
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            for _ in range(1000):
                read()
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_a_heartbeat_is_never_seen_half_written(tmp_path: Path) -> None:
    writer = Scoreboard(tmp_path / "page", create=True)
    writer.heartbeat()
    reader = Scoreboard(tmp_path / "page")

    def work() -> None:
        writer.heartbeat()
        writer.begin([1, 2, 3])
        writer.end()

    def check() -> None:
        assert -1.0 < reader.idle_for < 60.0
        assert reader.suspects in (set(), {1, 2, 3})

    beside(work, check)
    for board in (writer, reader):
        board.close()


def test_a_count_in_flight_is_never_seen_half_written(tmp_path: Path) -> None:
    first, second = InFlightCounter(tmp_path / "page", 0), InFlightCounter(tmp_path / "page", 1)
    first.set(3 << 40)

    def check() -> None:
        assert second.total == 3 << 40

    beside(lambda: first.set(3 << 40), check)


def test_workers_that_start_together_are_all_counted(tmp_path: Path) -> None:
    counters = [InFlightCounter(tmp_path / "page", slot) for slot in (7, 2)]
    counters[0]._numbers[0] = 1  # the other has overwritten the highest slot
    for counter in counters:
        counter.set(2)
    assert [counter.total for counter in counters] == [4, 4]


def no_room(fd: int, start: int, size: int) -> None:
    raise OSError(28, "No space left on device")


def test_a_full_disk_is_an_error_when_a_page_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_page.os, "posix_fallocate", no_room)
    with pytest.raises(OSError, match="No space left"):
        Scoreboard(tmp_path / "page", create=True)
    counter = InFlightCounter(tmp_path / "count", 3)  # counts for itself
    counter.set(2)
    assert counter.total == 2


def test_the_room_of_a_page_is_allocated(tmp_path: Path) -> None:
    Scoreboard(tmp_path / "page", create=True).close()
    found = (tmp_path / "page").stat()
    assert found.st_blocks * 512 >= found.st_size and found.st_mode & 0o777 == 0o600
