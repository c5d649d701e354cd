"""Freed memory stays with the process when it is asked to keep it."""

import os
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys, threading
from cupola.runtime.optimize.memory import keep_freed_memory
if not keep_freed_memory():
    sys.exit(9)
def fill():
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        del_me = bytes(96 * 1024**2)
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
        del del_me
    print(faults)
fill()
other = threading.Thread(target=fill)
other.start()
other.join()
"""


def run(**environment):
    return subprocess.run(
        [sys.executable, "-c", FAULTS],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_freed_block_of_memory_is_used_again_by_every_thread():
    found = run()
    if found.returncode == 9:
        pytest.skip("the C library is not glibc")
    assert found.returncode == 0, found.stderr
    assert all(int(count) < 1000 for count in found.stdout.split()), found.stdout  # of 24,576 pages


def test_settings_of_the_environment_prevail():
    assert run(MALLOC_TRIM_THRESHOLD_="131072").returncode == 9
