"""Fixtures: servers in real processes, with settings that keep waits short."""

import functools
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from serve_harness import Running, write_bundle


@pytest.fixture(autouse=True)
def ignore_sigio() -> Iterator[None]:
    """Channels made in this process would kill it by SIGIO, which only a master handles."""
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGIO, before)


@pytest.fixture
def short_folder() -> Iterator[str]:
    """A folder with a short path, since the path of a unix socket has at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="cupola-", dir="/dev/shm") as folder:
        yield folder


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """Starts servers; `serve(models=[...], **settings)` returns one that is ready."""
    started: list[Running] = []

    def start(*, ready: bool = True, **settings: Any) -> Running:
        folder = tmp_path / f"server{len(started)}"
        running = Running(folder, **settings)
        started.append(running)
        running.start()
        if ready:
            running.wait_ready()
        return running

    yield start
    for running in started:
        running.stop()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One server for all tests of a file: two versions of echo, and a speaker."""
    folder = tmp_path_factory.mktemp("shared")
    make = functools.partial(write_bundle, folder / "bundles")
    bundles = [
        make("echo"),
        make("echo", version="2", offset=1, folder="echo2"),
        make("speaker", task="language"),
    ]
    running = Running(folder, models=[str(b) for b in bundles], admin="on")
    running.start()
    running.wait_ready()
    yield running
    running.stop()
