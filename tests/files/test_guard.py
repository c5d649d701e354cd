"""The child that tries an untrusted file: every way in which it can end is one line."""

import gc
import os
import signal
import time

import psutil
import pytest

from cupola.files.guard import CRASHED, TOO_LARGE, TOO_SLOW, guarded

MEGABYTE = 2**20


def spin() -> None:
    while True:
        pass


def crash() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def fail() -> None:
    raise ValueError("first line\nsecond line")


@pytest.mark.parametrize(
    ("action", "reason"),
    [
        (lambda: None, None),
        (lambda: bytearray(10**9), TOO_LARGE),
        (spin, TOO_SLOW),
        (lambda: time.sleep(3600), TOO_SLOW),  # no processor time, as in a deadlock
        (crash, CRASHED),
        (fail, "first line"),
        (lambda: fail.missing, "'function' object has no attribute 'missing'"),  # type: ignore
    ],
)
def test_how_a_child_ends(action, reason) -> None:
    assert guarded(action, memory=100 * MEGABYTE, seconds=0.2) == reason


def children() -> set[int]:
    return {child.pid for child in psutil.Process().children()}


def collect() -> None:
    raise ValueError(f"collects {gc.isenabled()}")


def test_the_heap_of_the_parent_takes_no_time_of_the_child() -> None:
    assert gc.isenabled()
    assert guarded(collect, memory=100 * MEGABYTE, seconds=0.2) == "collects False"


def test_nothing_is_left_behind() -> None:
    before, others = len(os.listdir("/proc/self/fd")), children()
    for action in (crash, fail, lambda: None):
        guarded(action, memory=MEGABYTE * 100, seconds=5)
    assert len(os.listdir("/proc/self/fd")) == before
    assert children() <= others
