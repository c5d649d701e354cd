"""Shared by all tests: hypothesis settings, pools of ranks, and a browser."""

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# Before torch is imported: idle compute threads sleep soon, so that tests with two threads are not
# ten times slower beside another busy process.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
if "PYTEST_XDIST_WORKER" in os.environ:  # one of several processes that share the processor
    os.environ.setdefault("OMP_NUM_THREADS", "1")

from ranks import RankPool

# No test downloads a checkpoint that a config names; those of downloads have servers of their own.
os.environ["HF_HUB_OFFLINE"] = "1"

# Choices and graphs of these tests are not kept, and none of the user's are read.
CACHE = tempfile.mkdtemp(prefix="cupola-cache-")
os.environ["CUPOLA_CACHE"] = CACHE
atexit.register(shutil.rmtree, CACHE, ignore_errors=True)

# A deadline fails on loaded cores; pytest's --durations finds what is slow.
settings.register_profile(
    "cupola", deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("cupola")


# One size, so that the pool lives as long as the tests; test-all has both.
@pytest.fixture(scope="session", params=[pytest.param(2, marks=pytest.mark.slow), 4])
def ranks(request: pytest.FixtureRequest) -> Iterator[RankPool]:
    pool = RankPool(request.param)
    yield pool
    pool.close()


@pytest.fixture(scope="module")  # not session: Playwright keeps an event loop running
def browser() -> Iterator[Any]:
    """A headless Chromium, from the path in CHROMIUM or on PATH."""
    names = (os.environ.get("CHROMIUM", ""), "chromium", "chromium-browser")
    executable = next(filter(None, map(shutil.which, names)), None)
    if executable is None:
        pytest.skip("no Chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield chromium
        chromium.close()
